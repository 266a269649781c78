"""Fakes for tests and demonstrations; each passes the contract suite of the port or API it stands for."""

from runtime.testing.faults import Cut, Fault, HtmlPage, HttpFault, Paced, PingForever, Stall, StreamError
from runtime.testing.loopback import serve_loopback
from runtime.testing.messages_api import FakeMessagesAPI, api_message, in_order
from runtime.testing.scripted import ScriptedModel, call_reply, text_reply
from runtime.testing.system import system_on

__all__ = [
    "Cut",
    "FakeMessagesAPI",
    "Fault",
    "HtmlPage",
    "HttpFault",
    "Paced",
    "PingForever",
    "ScriptedModel",
    "Stall",
    "StreamError",
    "api_message",
    "call_reply",
    "in_order",
    "serve_loopback",
    "system_on",
    "text_reply",
]
