"""Which replica a request should go to: the one that has read its beginning before.

A key names what is worth staying for: the session, if the client says one, else the beginning of the prompt,
so that chats and shared instructions find what the prefix cache of their replica holds. Every replica has a
place for every key that does not depend on who else is there (rendezvous hashing), so when one comes or goes
only its own keys move. Who has much more to do than the others is passed over.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from ttc.serving.adapters.forwarding import Forward

__all__ = ["SESSION_HEADER", "key_of", "ranked"]

SESSION_HEADER = b"x-session-id"
# A prefix cache keeps whole pieces of 64 tokens: less than one is not worth a queue. Of texts, whose tokens
# are not known here, as many characters as a piece may have at most.
_LEAST_TOKENS, _LEAST_CHARACTERS = 64, 256
# Requests that a replica may have above the average and still be preferred.
_SLACK = 4


def key_of(forward: Forward, body: Mapping[str, Any] | None) -> str:
    """Return what ties a request to a replica; nothing where any will do.

    body: its JSON object; None where it has none.
    """
    session = forward.header(SESSION_HEADER)
    if session:
        return f"session {session.decode('latin-1')}"
    beginning = _beginning(body or {})
    return f"prompt {hashlib.blake2b(beginning.encode(), digest_size=8).hexdigest()}" if beginning else ""


def _beginning(body: Mapping[str, Any]) -> str:
    """Return the first piece of a prompt, of several the first one's."""
    prompt = body.get("prompt", body.get("messages"))
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt[:_LEAST_CHARACTERS] if len(prompt) >= _LEAST_CHARACTERS else ""
    if not isinstance(prompt, list):
        return ""
    if all(isinstance(message, dict) for message in prompt):  # a chat
        said = "\n".join(f"{message.get('role')}: {message.get('content')}" for message in prompt)
        return said[:_LEAST_CHARACTERS] if len(said) >= _LEAST_CHARACTERS else ""
    return repr(prompt[:_LEAST_TOKENS]) if len(prompt) >= _LEAST_TOKENS else ""


def ranked(key: str, loads: Mapping[str, int], attempt: int = 0) -> list[str]:
    """Return the replicas in the order in which they should be asked.

    Args:
        key: of the request; without one, who has least to do comes first.
        loads: replica → requests that it has.
        attempt: how often the request was sent before: so many of the first are put last.
    """
    average = sum(loads.values()) / max(len(loads), 1)

    def place(replica: str) -> tuple[object, ...]:
        said = hashlib.blake2b(f"{key}\0{replica}".encode(), digest_size=8).digest()
        if key and loads[replica] <= average + _SLACK:
            return (0, said)
        return (1, loads[replica], said)

    order = sorted(loads, key=place)
    turn = attempt % max(len(order), 1)
    return order[turn:] + order[:turn]
