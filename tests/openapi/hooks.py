"""Bodies and answers that are no JSON."""

import json

import schemathesis
from hypothesis import strategies as st

# Nothing of this is a plugin, and some of it begins like one.
WASM = st.one_of(
    st.binary(max_size=64), st.binary(max_size=64).map(lambda rest: b"\0asm\x0d\0\1\0" + rest)
)
EVENT = st.fixed_dictionaries(
    {
        "game_id": st.sampled_from(["2031-02-11-SEA-LVG", "LAL-BOS", "a/b ?é"]),
        "seq": st.integers(1, 200),
        "type": st.sampled_from(["miss", "foul", "field_goal"]),
        "team": st.sampled_from(["LAL", "BOS"]),
        "period": st.integers(1, 5),
        "clock": st.sampled_from(["9:42", "11:59", "0:00"]),
    }
)
NDJSON = st.lists(EVENT, min_size=1, max_size=5).map(
    lambda events: "\n".join(map(json.dumps, events)).encode()
)
LINE = '{"topic": "NBA-Games", "partition": 0, "timestamp_ms": 0, "headers": []}'

schemathesis.openapi.media_type("application/wasm", WASM)
schemathesis.openapi.media_type("application/x-ndjson", NDJSON)


@schemathesis.serializer("application/wasm", "application/x-ndjson")
def as_it_is(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/wasm")
def no_text(_context, response):
    return response.content.decode("latin-1")


@schemathesis.deserializer("application/x-ndjson")
def last_line(_context, response):
    """The schema is that of a line; an answer without one has nothing wrong in it."""
    lines = response.content.splitlines()
    return json.loads(lines[-1] if lines else LINE)


@schemathesis.hook
def map_body(_context, body):
    """13.0 is an integer by JSON Schema, and none for this host, nor for its plugins."""
    if isinstance(body, dict):
        mapped = {name: map_body(_context, value) for name, value in body.items()}
        mapped = {name: within_bytes(name, value) for name, value in mapped.items()}
        return without_impossible_correction(mapped)
    if isinstance(body, list):
        return [map_body(_context, value) for value in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body


def within_bytes(name, value):
    """JSON Schema counts the characters of a text, and the host counts its bytes."""
    most = {"game_id": 128, "team": 32, "player": 128}.get(name)
    if most is None or not isinstance(value, str) or len(value) > most:
        return value
    return value.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")


def without_impossible_correction(event):
    """JSON Schema cannot say that a correction has points and corrects a lower seq."""
    seq, corrects = event.get("seq"), event.get("corrects")
    is_valid = isinstance(corrects, int) and 1 <= corrects <= 2**32 - 1
    if is_valid and isinstance(seq, int) and (corrects >= seq or "points" not in event):
        return {name: value for name, value in event.items() if name != "corrects"}
    return event
