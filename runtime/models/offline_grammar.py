"""What the offline model understands: one table of patterns, and the text that documents it.

A rule is an intent, the patterns that express it, and examples. A pattern must match a whole sentence, so what no rule
covers is not understood: the default is refusal. Each named group of a pattern is a slot;
`runtime.models.offline_readers` reads it and may turn the rule down. `runtime.models.offline_parse` prepares the
sentences and applies the table.
"""

from dataclasses import dataclass
from typing import Literal

from runtime.models.offline_slots import NAME, PRIORITIES, STATUSES

Intent = Literal[
    "add", "change", "move", "list", "show", "client", "remember", "recall", "forget", "person", "swarm", "status",
    "help", "greet", "thank", "choose", "unknown",
]  # fmt: skip

ACTING: frozenset[Intent] = frozenset({"add", "change", "move", "forget", "swarm"})
"""Intents that change something: a negation or a condition in the sentence turns them down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One way of saying one thing.

    `on` is the text the patterns see: "raw" is the sentence as written, "words" is it without politeness, "core" also
    without deadline and priority, which then become slots of the request. `needs_mark`: applies only when there was a
    deadline or a priority.
    """

    intent: Intent
    says: str
    patterns: tuple[str, ...]
    examples: tuple[str, ...]
    on: Literal["raw", "words", "core"] = "words"
    needs_mark: bool = False


VERBS = (
    "adapt", "adjust", "analyse", "analyze", "archive", "arrange", "back up", "book", "brief", "build", "call",
    "change", "check", "clean up", "collect", "compile", "compress", "configure", "connect", "convert", "correct",
    "create", "debug", "deploy", "design", "develop", "document", "draft", "edit", "embed", "enable", "evaluate",
    "export", "extend", "film", "finalise", "finalize", "finish", "fix", "follow up with", "implement", "import",
    "improve", "install", "integrate", "investigate", "launch", "look into", "migrate", "optimise", "optimize",
    "order", "organise", "organize", "photograph", "plan", "polish", "post", "prepare", "print", "produce",
    "proofread", "publish", "put together", "record", "redesign", "redo", "refresh", "relaunch", "remove", "renew",
    "repair", "replace", "research", "resize", "restore", "retouch", "review", "revise", "rewrite", "roll out",
    "schedule", "send", "set up", "shoot", "shorten", "sort out", "speed up", "submit", "swap", "sync", "test",
    "tidy up", "translate", "update", "upgrade", "upload", "verify", "write",
)  # fmt: skip
"""Work that a card can ask for. Verbs that destroy, pay or grant are left out: those sentences go to a person."""

_ARTICLE_VERBS = ("add", "do", "get", "make", "run", "take", "organise", "give us")
_VERB = (
    "(?:" + "|".join(sorted(VERBS, key=len, reverse=True)) + "|(?:" + "|".join(_ARTICLE_VERBS) + r")"
    r"(?=\s+(?:an?|the|our|some|new|more|another|two|three|four|five|\d+)\b))"
)
_ACTED = "(?:fix|finish|complete|start|update|prepare|publish|send|write|do|design|build|create|make|check|look at)"

_CARD = r"(?:cards?|tasks?|tickets?|to-?do(?: items?)?s?|items?)"
_STATUS = "(?:" + "|".join(STATUSES.values()) + ")"
_PRIORITY = (
    r"(?:(?:very|super|really)\s+)?(?:" + "|".join(PRIORITIES.values()) + r"|high|medium|normal|low)"
    r"(?: prio(?:rity)?)?"
)
_NEW = r"(?:an?|the|some|new|more|another|one|two|three|four|five|six|\d+)"
_SHOW = r"(?:show|list|display|see|give|get|view|open)(?: me| us)?"
_BROKEN = (
    r"(?:(?:still|completely|totally|again|currently)\s+)?(?:broken|down|offline|not working|not loading|dead|damaged"
    r"|outdated|out of date|wrong|misaligned|too slow)(?: again)?"
)
BROKEN_THEN_FIX = (
    r"(?P<subject>\b[^.,;!?\n]{1,80}?)\s+"
    rf"(?:(?:is|are|looks?|seems?)\s+{_BROKEN}|(?:is|are)n't (?:working|loading)|(?:does|do)(?:n't| not) (?:work"
    rf"|load|open))"
    r"(?:\s+(?:any ?more|properly|since [^.,;!?\n]{1,40}))?[\s.,;!–-]*(?:and|so)?\s*"
    r"(?P<polite>(?:please|pls|can you|could you|can someone)\s+)*(?P<verb>fix|repair|update|correct|look into|check)"
    r"\s+(?:it|this|that|them)\b"
)
"""A complaint and the request to mend it, which together say what to mend."""

RULES: tuple[Rule, ...] = (
    Rule(
        intent="help",
        says="Say what I can do.",
        patterns=(
            r"help(?: me)?|commands?|menu|\?+",
            r"what (?:can|do) you (?:do|understand|know)(?: for me| for us)?(?: offline)?",
            r"how does (?:this|it) work|how do i use (?:this|you)|who are you|what are you",
        ),
        examples=("Help", "What can you do?"),
    ),
    Rule(
        intent="status",
        says="Count the cards of each column.",
        patterns=(
            r"(?:a )?(?:quick |short |current )?(?:status|overview|summary)(?: update| report)?",
            rf"(?:{_SHOW} )?(?:a |the )?(?:quick |short |current )?status(?: update| report)?(?: of (?:the board"
            rf"|everything))?",
            r"how(?:'s| is| are) (?:things|everything|it|we|work)(?: going| doing)?(?: today| so far)?",
            r"where (?:do|are) we(?: stand)?|what(?:'s| is) the (?:current )?status",
        ),
        examples=("Status", "How are things going?"),
    ),
    Rule(
        intent="greet",
        says="Say hello.",
        on="raw",
        patterns=(
            r"(?:hi|hello|hey|hallo|moin|good (?:morning|afternoon|evening|day)|dear)"
            rf"(?:[, ]+(?:there|team|all|everyone|everybody|folks|guys|{NAME}))?",
            rf"{NAME} here(?: from {NAME})?|(?:this is|it's|i am|i'm) {NAME}(?: here)?(?: from {NAME})?",
            rf"(?:{NAME},? )?(?:i )?hope (?:you are|you're|you guys are|all is|everything is|this finds you).{{0,40}}",
            r"(?:do|take care of) the following(?: (?:things|tasks|points))?|the following(?: (?:things|tasks"
            r"|points))?",
        ),
        examples=("Hello",),
    ),
    Rule(
        intent="thank",
        says="Take thanks, a yes, or a good-bye; nothing is done.",
        on="raw",
        patterns=(
            r"(?:(?:ok|okay|great|perfect|super|cool|nice|awesome|alright|wonderful|yes|yep|no|nope|fine|got it"
            r"|sure)[,. ]*)+"
            r"(?:(?:work|job))?",
            rf"(?:(?:ok|okay|great|perfect|super|cool|nice|awesome|alright)[,. !]*)?(?:many )?(?:thanks|thank you"
            rf"|thx|cheers"
            rf"|danke|ty)(?: you)?(?: (?:so|very) much| a lot| again| in advance)?(?: for (?:your|the)"
            rf" help)?(?:[, ]+{NAME})?",
            rf"never ?mind|no worries|forget (?:it|about it)|(?:good)?bye|(?:best|kind|warm)?(?: regards|"
            rf" wishes)(?:[, ]+{NAME})?",
            rf"best(?:[, ]+{NAME})?|see you(?: soon| later)?|have a (?:nice|good|great) (?:day|weekend|evening)",
        ),
        examples=("Thanks!", "Never mind"),
    ),
    Rule(
        intent="swarm",
        says="Start several agents on the parts of a goal.",
        patterns=(
            r"(?:start|launch|run|spin up|create|set up|begin|kick off)(?: me| us)? (?:an? |the |another"
            r" )?swarm(?: of agents)? "
            r"to (?P<goal>[^:]+):\s*(?P<parts>.+)",
            r"(?:start|launch|run|spin up|create|set up|begin|kick off)(?: me| us)? (?:an? |the |another"
            r" )?swarm(?: of agents)? "
            r"(?:on|for|about|with|to work on|to research|to look into) (?P<goal>[^:]+)(?::\s*(?P<parts>.+))?",
            r"(?:an? )?swarm(?:\s*:| on| about) (?P<goal>[^:]+)",
            r"(?:let|have|use) (?:an? |the )?swarm (?:to )?(?:work on|research|look into|for|handle) (?P<goal>[^:]+)",
        ),
        examples=(
            "Start a swarm on cost, risk and timing",
            "Start a swarm to compare hosting providers: price, support and speed",
        ),
    ),
    Rule(
        intent="remember",
        says="Store a fact.",
        patterns=(
            r"(?:remember|memori[sz]e|don'?t forget|do not forget|keep in mind|bear in mind|note|take note)"
            r"(?:,?\s+that|\s*:)\s+(?P<value>.+)",
            r"remember (?P<value>(?:my|our|the|his|her|their|we|i|he|she|they)\b.+\b(?:is|are|was|has|have|likes?"
            r"|prefers?|wants?|needs?"
            r"|hates?|uses?)\b.+)",
            r"(?:make|take) a note(?:\s+that|\s*:)\s+(?P<value>.+)",
            r"(?:fyi|for your information|for future reference|for the record|note to self)\s*[,:]\s*(?:that"
            r" )?(?P<value>.+)",
        ),
        examples=(
            "Remember that Acme Dental prefers blue",
            "Please note: the office is closed on Friday",
            "Don't forget that Maria is on holiday until Monday",
            "Keep in mind that the brand font is Inter",
        ),
    ),
    Rule(
        intent="forget",
        says="Delete one stored fact, if exactly one fits.",
        patterns=(
            r"forget (?:that|the fact that) (?P<text>.+ .+)",
            r"forget (?:what (?:i|we) (?:said|told you)|everything (?:i|we) said|the notes?|your notes?) about"
            r" (?P<text>.+)",
            r"(?:delete|remove|erase) (?:the|your|my|our|that) (?:note|memory|fact) (?:about|on|that) (?P<text>.+)",
        ),
        examples=(
            "Forget that Acme Dental prefers blue",
            "Forget what I said about the brand font",
            "Forget the note about Maria",
        ),
    ),
    Rule(
        intent="recall",
        says="Look up stored facts.",
        patterns=(
            r"what (?:do|did) (?:you|we) (?:know|remember|note|have noted|say)(?: down)? (?:about|on|of) (?P<text>.+)",
            r"what (?:did|have) (?:i|we) (?:tell|told|say|said|note|noted)(?: to)?(?: you)?(?: down)? (?:about|on)"
            r" (?P<text>.+)",
            r"what have you (?:noted|remembered|stored|written)(?: down)? (?:about|on) (?P<text>.+)",
            r"(?:do|can) you (?:still )?(?:remember|recall) (?P<text>.+)",
            r"recall (?P<text>.+)",
        ),
        examples=(
            "What do you know about Acme Dental?",
            "Do you remember the brand font?",
            "What did I tell you about Maria?",
        ),
    ),
    Rule(
        intent="person",
        says="Hand the conversation or a question to a person.",
        patterns=(
            r"(?:(?:can|could|may) (?:i|we) |let me |i want to |i (?:would|'d) like to )?(?:please )?(?:talk|speak"
            r"|chat) (?:to|with) "
            r"(?:an? |the |some|your |my )?(?:real |actual |live )?(?:person|human(?: being)?|one|someone|somebody"
            r"|body|agent|people"
            r"|colleague|team|manager|support|employee|(?-i:[A-Z]\w+))(?: (?:from|in|of|on) .+)?",
            r"(?:(?:i|we) (?:need|want) |get me )?(?:an? )?(?:real |live )?(?:human|person|agent|operator)(?: now)?",
            r"(?:(?:can|could|would|will) (?:you|somebody|someone|anyone) )?(?:please )?(?:call|phone|ring) (?:me"
            r"|us)(?: back)?(?: .+)?",
            r"give (?:me|us) a (?:call|ring)(?: .+)?|(?:connect|transfer|forward) (?:me|us|this) (?:to|with) .+",
            r"(?:please )?contact (?:me|us)\b.*|(?:i|we) have (?:a|some|another) questions?\b.*",
            r"can an? (?:human|person|real person) .+|put me through.*|escalate(?: this| it)?(?: to .+)?|hand"
            r" (?:this|it|me) over(?: to .+)?",
            r"ask (?:a person|someone|somebody|the team|your (?:team|boss)|my \w+|(?-i:[A-Z])\w+) (?P<question>.+)",
        ),
        examples=(
            "I want to talk to a person",
            "Can somebody call me?",
            "Ask Anna whether the photos are approved",
            "human please",
        ),
    ),
    Rule(
        intent="client",
        says="Show what is known of a client.",
        patterns=(
            rf"who(?:'s| is| are) (?P<who>{NAME})",
            r"(?:show|look up|find|open|display)(?: me| us)? (?:the |our )?client (?P<name>.+)",
            rf"(?:tell (?:me|us) about|info(?:rmation)? (?:on|about)) (?:the |our )?(?:client )?(?P<who>{NAME})",
            rf"(?:what(?:'s| is| are)|show(?: me)?|give me) (?:the )?(?:contact(?: details| data)?|details|email"
            rf"|address|phone(?: number)?"
            rf"|contact person) (?:of|for) (?:(?:the |our )?client )?(?P<who>{NAME})",
            rf"is (?P<who>{NAME}) (?:an? |our )?(?:existing |new )?(?:client|customer)(?: of ours)?|do (?:we|you) know"
            rf" (?P<who2>{NAME})",
            rf"what(?:'s| is| are) (?P<who>{NAME}?)(?:'s|') (?:contact(?: details| data)?|e-?mail(?: address)?"
            rf"|address|phone(?: number)?)",
            rf"(?:who|what) is (?:the |our )?client (?P<who>{NAME})",
        ),
        examples=(
            "Who is Acme Dental?",
            "Show the client Bright Smiles",
            "Tell me about Harbor Coffee",
            "What are the contact details of Acme Dental?",
        ),
    ),
    Rule(
        intent="show",
        says="Show one card.",
        patterns=(
            r"(?:(?:show|display|see|view|open)(?: me| us)?(?: the details of)?|(?:more )?details (?:of|on|for|about)) "
            r"(?P<ref>(?:(?:the|that|this) .+|#?\d+|(?:card|task|ticket) .+|it))",
            r"(?:what(?:'s| is)|how(?:'s| is)|show(?: me)?|check) (?:the )?(?:current )?(?:status|state|progress"
            r"|deadline|due date|priority) "
            r"(?:of|for|with) (?P<ref>.+)",
            rf"(?:is|are) (?P<ref>.+?) (?:already |now |finally )?(?:{_STATUS}|{_PRIORITY}|live|ready|online)(?:"
            rf" yet| already)?",
            r"when(?:'s| is| are) (?P<ref>.+?) (?:due|ready|done|finished)",
            r"how (?:far|advanced) (?:is|are) (?P<ref>.+?)(?: now)?|how(?:'s| is) (?P<ref2>.+?) (?:coming along"
            r"|going|progressing|doing)",
            r"(?:any|is there any) (?:news|update|updates|progress) (?:on|about|for|with|regarding) (?P<ref>.+)",
            rf"(?:did|have) (?:you|we|they) (?:already |yet )?{_ACTED}(?:ed|d)? (?P<ref>.+?)(?: yet| already)?",
            r"what about (?P<ref>(?:the|that|this|card|#).+)",
        ),
        examples=(
            "Show card 12",
            "What's the status of the landing page?",
            "Is the newsletter done?",
            "When is the landing page due?",
            "Show me that card",
            "How far is the newsletter?",
        ),
    ),
    Rule(
        intent="list",
        says="List cards by column, priority, client, words or deadline.",
        patterns=(
            rf"{_SHOW} (?:a list of |an overview of |the list of )?(?P<filter>.*\b(?:{_CARD}|board|backlog)\b.*)",
            r"(?P<filter>.*\b(?:cards|tasks|tickets|to-?dos|items|board)\b.*)",
            rf"(?:what|which|whats|what's)(?: of)? (?P<filter>.*\b(?:{_CARD}|board)\b.*)",
            r"(?:what(?:'s|s| is| are| do we have)?|which(?: ones)?(?: is| are)?|(?:show|list)(?: me)?(?: what is|"
            r" what's|"
            r" everything)?|(?:(?:is|are) there )?any(?:thing)?) "
            r"(?P<filter>(?:in|on|over|due|urgent|still|currently|not yet|done|open|late).*)",
            r"what are (?:we|you) (?P<doing>working on|doing)(?: right now| now| today| at the moment| currently)?",
            r"(?:find|search(?: for)?|look for|look up) (?P<search>.+)",
        ),
        examples=(
            "Show the board",
            "What's on the board?",
            "List all urgent cards",
            "Which cards are in review?",
            "Show me the cards of Acme Dental",
            "What is due by Friday?",
            "What is overdue?",
            "Find cards about newsletter",
        ),
    ),
    Rule(
        intent="change",
        says="Change a card: priority, deadline, title or client.",
        patterns=(
            rf"(?:make|mark|flag) (?P<ref>.+?)(?: to| as| with)? (?P<priority>{_PRIORITY})",
            rf"(?:set|change|treat|switch|turn) (?P<ref>.+?) (?:to|as) (?P<priority>{_PRIORITY})",
            rf"(?:set|bump|raise|change|lower|increase|move|update|put|reduce)(?: up| down)? (?:the"
            rf" )?prio(?:rity)? (?:of|for|on) "
            rf"(?P<ref>.+?)(?: up| down)? to (?P<priority>{_PRIORITY})",
            rf"(?:set|bump|raise|change|lower|increase|update) (?:the |its )?prio(?:rity)? to"
            rf" (?P<priority>{_PRIORITY})",
            r"(?P<high>prioriti[sz]e) (?P<ref>.+)|(?P<low>deprioriti[sz]e) (?P<ref2>.+)",
            r"(?:set|change|move|push|shift|update|extend|postpone)(?: back)? (?:the |its )?(?:deadline|due date"
            r"|date) (?:of|for|on) "
            r"(?P<ref>.+?)(?: back)? (?:to|until) (?P<when>.+)",
            r"(?:set|change|move|push|shift|update|extend|postpone) (?P<ref>(?:the |its )?(?:deadline|due"
            r" date))(?: back)? (?:to|until) "
            r"(?P<when>.+)",
            r"(?:postpone|move|push|shift|delay|reschedule|extend|change|set|bring(?: forward)?)(?: back)?"
            r" (?P<ref>.+?)(?: back| forward)? "
            r"(?:to|until|till) (?P<when>.+)",
            r"(?:make|set|have) (?P<ref>.+?) (?:to be )?due (?:on |by )?(?P<when>.+)",
            r"(?:the )?(?:deadline|due date) (?:of|for|on) (?P<ref>.+?) is(?: now)? (?P<when>.+)",
            r"(?:rename|retitle) (?P<ref>.+?) (?:to|as|into) (?P<new_title>.+)",
            r"(?:change|set|update) (?:the )?(?:title|name) of (?P<ref>.+?) (?:to|as|into) (?P<new_title>.+)",
            r"(?:call|name|title) (?P<ref>it|this|that|that card|this card|that one|this one)"
            r" (?P<new_title>.+?)(?: instead)?",
            rf"(?P<ref>it|this|that|that card|this card|that one|the card|(?:card |task )?#?\d+)(?:'s| is) (?:a"
            rf" card |a task )?(?:for|from|of) "
            rf"(?:the client |our client )?(?P<client>{NAME})",
            rf"(?:the )?client (?:of|for) (?P<ref>.+?) is (?P<client>{NAME})",
            r"(?:set|change|update) (?:the )?client of (?P<ref>.+?) to (?P<name>.+)",
            r"(?:assign|link|attach) (?P<ref>.+?) to (?:the )?client (?P<name>.+)",
        ),
        examples=(
            "Make it urgent",
            "Set the priority of the landing page to high",
            "Change the due date of the newsletter to Monday",
            "Postpone it to 1 December",
            "Rename it to 'Fix the home page'",
            "Change the title of card 12 to Relaunch the shop",
            "It is for Bright Smiles",
            "Set the client of #12 to Acme Dental",
        ),
    ),
    Rule(
        intent="move",
        says="Move a card to another column.",
        on="core",
        patterns=(
            rf"(?:move|put|set|shift|drag|push|send|change|mark|switch|bring|transfer) (?P<ref>.+?)(?: back|"
            rf" over)? (?:to|in|into|as|on) "
            rf"(?:the )?(?:status )?[\"'“]?(?P<status>{_STATUS})[\"'”]?(?: column| list)?",
            rf"mark (?P<ref>.+?) (?P<status>{_STATUS})",
            rf"(?:set|change|update) (?:the )?(?:status|column|state) of (?P<ref>.+?) (?:to|as) (?:the"
            rf" )?(?P<status>{_STATUS})",
            r"(?P<in_progress>start|begin) (?:work(?:ing)? )?(?:on|with) (?P<ref>.+)",
            r"(?P<in_progress>start|begin) (?P<ref>#\d+|it|this|that|(?:card|task|ticket) .+|(?:the|this|that) .+"
            r" (?:card|task|one))",
            r"(?:we|i)(?:'ve| have) (?P<in_progress>started) (?:work(?:ing)? )?(?:on |with )?(?P<ref>.+)",
            rf"(?P<ref>.+?) (?:is|are|has been|have been|'s)(?: now| already| finally)? (?P<status>{_STATUS})",
            r"(?P<ref>it|that|this)'s(?: now| already| finally)? (?P<status>done|finished|complete|completed|ready"
            r" for review|in review|in progress)",
            r"(?P<done>close|complete|tick off|check off|cross off|resolve) (?P<ref>.+)",
            r"(?P<todo>re-?open) (?P<ref>.+)",
        ),
        examples=(
            "Move it to review",
            "Move the landing page to done",
            "Mark the newsletter as done",
            "Mark card 12 as in progress",
            "Put it back in the backlog",
            "Start working on the landing page",
            "The landing page is done",
            "Close #12",
            "Reopen it",
            "That card is ready for review",
        ),
    ),
    Rule(
        intent="change",
        says="Change a card by naming only a priority or a deadline.",
        on="core",
        needs_mark=True,
        patterns=(
            r"(?P<ref>.+?)(?:'s| is| are| has| should be| must be| needs to be| has to be| would be)(?: now| too|"
            r" also)?",
            r"(?P<ref>.+?) (?:should|must|needs to|has to) be (?:done|ready|finished|completed?|live|online)",
            r"(?P<ref>it|this|that|this one|that one|both|them|(?:the|this|that) card|(?:card )?#?\d+)(?: can| too"
            r"| also)?",
            r"(?:(?:the|a|with|for|also|is|are|fine|ok|okay|good|great|enough|works|will do|it|it's|at)\b[ ,]*)*",
        ),
        examples=(
            "It's not urgent",
            "also for Monday",
            "The deadline is Friday",
            "make the landing page one urgent",
            "by Friday please",
            "The newsletter is due on Wednesday",
        ),
    ),
    Rule(
        intent="add",
        says="Put a card on the board.",
        on="core",
        patterns=(
            rf"(?:create|add|open|make|file|log|raise|put up)(?: me| us)? (?:an? |one |another |the )?(?:new )?"
            r"(?:(?P<adjective>urgent|important|critical|(?:high|low|medium|top)[ -]prio(?:rity)?) )?"
            rf"(?:card|task|ticket|to-?do|item)(?: (?:on|to) the board)?(?: (?:for|of) (?P<client>{NAME}))?"
            r"(?:\s*[:–-]\s*| to | that says | called | named | titled | about | for | (?=[\"'“]))(?P<title>.+)",
            rf"(?:an? )?(?:new (?:card|task|ticket|to-?do|item)|to-?do)(?: for (?P<client>{NAME}))?(?:\s*[:–-]\s*|"
            rf" to )(?P<title>.+)",
            r"(?:put|add) (?P<title>.+?) (?:on|to|onto|in) (?:the|our|my) (?:board|list|to-?do list|task list|backlog)",
            rf"(?:can|could|may) (?:i|we) (?:please )?(?:get|have) (?P<need>{_NEW}\b.+)",
            rf"(?:we|i|they)(?:'d| would)? (?:still |also |really )*(?:need|want|like|require) (?P<need>{_NEW}\b.+)",
            rf"need (?P<need>{_NEW}\b.+)",
            rf"(?:our client |the client )?(?P<client>{NAME}) (?:still |also |now )*(?:needs?|wants?|requires?"
            rf"|would like) (?P<need>{_NEW}\b.+)",
            rf"(?P<client>{NAME}) (?:wants?|needs?|asked?|asks) us to (?P<work>{_VERB}\s+.+)",
            r"(?P<subject>.+?) (?:needs?|has|have) to be (?P<participle>\w+)",
            rf"(?:for )?(?:the client |our client )?(?P<client>{NAME})\s*[:–]\s*(?P<work>{_VERB}\s+.+)",
            rf"(?P<work>{_VERB}\s+.+)",
        ),
        examples=(
            "Please fix the landing page of Acme Dental by Friday, urgent",
            "We need a new landing page for Bright Smiles by the end of the month",
            "Create a card: refresh the banner ads",
            "Add a task to renew the SSL certificate by 2026-12-01",
            "Don't forget to send the monthly report on Monday",
            "Acme Dental needs a new logo by Friday",
            "For Acme Dental: set up the Instagram profile",
            "Write the copy for the about page, no rush",
            "Put 'Order new business cards' on the board",
        ),
    ),
    Rule(
        intent="add",
        says="Put a card on the board by naming something new and its deadline or priority.",
        on="core",
        needs_mark=True,
        patterns=(r"(?P<need>(?:an? )?new .+)",),
        examples=("New landing page for Acme Dental, due Friday, urgent",),
    ),
    Rule(
        intent="choose",
        says="Say which card is meant, after I asked.",
        patterns=(
            r"(?:i mean |i meant )?(?P<choice>#?\d{1,9}|(?:card|task|ticket|number|no\.?) #?\d{1,9})",
            r"(?:i mean |i meant )?(?:the )?(?P<choice>(?:first|second|third|fourth|fifth|last)(?: one| card)?)",
            r"(?:i mean |i meant |(?=.* (?:one|card)$))(?P<choice>(?:the |that )?.+?)",
        ),
        examples=("the first one", "#12", "I mean the newsletter"),
    ),
)

_INTRO = """# What the offline model understands

Without an API key the model named `offline` drives the product. It is no language model: it reads English sentences
by the patterns of `runtime/models/offline_grammar.py`, reaches no network and gives the same answer to the same
conversation. It never guesses. What no pattern covers goes to a person, with the nearest thing that it can do.

This page is generated from that table; `tests/evals/test_offline.py` fails when it is out of date.

"""

_RULES_OF_READING = """
## Deadlines

`today`, `tomorrow`, `by Friday`, `Friday next week`, `in 3 days`, `in two weeks`, `27 November`, `Nov 27`,
`2026-11-27`, `by Friday 5pm`, `end of the month`, `end of December`, `end of day`. A weekday is the next one, never
today; `before Friday` is the day before; a day and month without a year is the next such day. They count from the
clock and the time zone in the message's context, and without one only dates with a year are understood. `11/27`,
`27.11.`, `next week`, `at 5`, a date in the past, and `next Saturday` said on a Friday have no single meaning: the
card is made without a deadline, and the answer says so.

## Priorities

| Priority | Words |
|---|---|
| urgent | urgent, asap, immediately, right away, critical, top priority |
| high | important, high priority |
| medium | medium priority, and every card without such words |
| low | low priority, no rush, not urgent, whenever, when you have time, can wait |

## Clients and cards

A client is a capitalised name after *of*, *for* or *from*, or before *'s* or *needs*. A name in lower case counts
only when `get_client` knows it. "It", "that card" and "them" are the cards of the last exchange, "the landing page
one" a card of the conversation, or else of the board. If none or several fit, the model asks.

## What is refused

A sentence that says not to do something, that depends on a condition or offers alternatives; deleting cards,
payments, rights and passwords; questions of advice; assigning people; other languages. Such a message becomes a
question to a person (`ask_person`). So does a sentence of more than 500 characters,
and a message of more than 4000.
"""


def render_markdown() -> str:
    """Return docs/offline.md, whole."""
    lines = ["| Intent | What it does | Examples |", "|---|---|---|"]
    for rule in RULES:
        examples = "<br>".join(example.replace("|", "\\|") for example in rule.examples)
        lines.append(f"| `{rule.intent}` | {rule.says} | {examples} |")
    return _INTRO + "\n".join(lines) + "\n" + _RULES_OF_READING
