"""Fakes for tests and demonstrations; each passes the contract suite of the port or API it stands for."""

from runtime.testing.clock import FixedClock
from runtime.testing.faults import Cut, Fault, HtmlPage, HttpFault, Paced, PingForever, Stall, StreamError
from runtime.testing.loopback import serve_loopback
from runtime.testing.memory_journal import MemoryJournal
from runtime.testing.memory_store import MemoryDb, MemoryStore, memory_of
from runtime.testing.messages_api import FakeMessagesAPI, api_message, in_order
from runtime.testing.scripted import ScriptedModel, call_reply, text_reply
from runtime.testing.system import system_on
from runtime.testing.virtual_loop import DeadlockError, VirtualClock, VirtualLoop

__all__ = [
    "Cut",
    "DeadlockError",
    "FakeMessagesAPI",
    "Fault",
    "FixedClock",
    "HtmlPage",
    "HttpFault",
    "MemoryDb",
    "MemoryJournal",
    "MemoryStore",
    "Paced",
    "PingForever",
    "ScriptedModel",
    "Stall",
    "StreamError",
    "VirtualClock",
    "VirtualLoop",
    "api_message",
    "call_reply",
    "in_order",
    "memory_of",
    "serve_loopback",
    "system_on",
    "text_reply",
]
