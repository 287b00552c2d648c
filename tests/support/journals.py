"""Records of journals, and journals in files read back."""

from service.journal.frames import Frame, FrameEncoder
from service.journal.records import (
    Bundle,
    DecisionRecord,
    EventRecord,
    Policy,
    pack,
    record_of,
)
from service.journal.segments import new_name, segments_in


def decision(number=0, user="u1", at=1000, request="r1", **more):
    """Return the record of a greedy decision about two candidates."""
    fields = {
        "record": f"d{number}", "at": at, "request_id": request, "user": user, "user_features": {},
        "user_is_partial": False,
        "history": [], "history_features": [], "context": {}, "ids": ["a", "b"], "scores": [],
        "features": [], "columns": {}, "store": None, "bundle": Bundle("m", "1", "ab"),
        "variant": "active", "policy": Policy("greedy", None, 0.0, 3, 3, 0.5, 1.0, 1.0),
        "constraints": None, "intent": None, "slate": [1], "logprob": [-0.5],
        "entropy_before": [0.5], "entropy_after": [0.5], "steps": [0], "utility": None,
        "unknown": 0, "degraded": [], "priority": "interactive", "total_ms": 1.0, "queue_ms": 0.1,
        "inference_ms": 0.5,
    }  # fmt: skip
    return DecisionRecord(**{**fields, **more})


def event(number=0, user=None, at=1000, request="r1", **more):
    """Return the record of a like."""
    fields = {"event_id": f"e{number}", "item": "a", "type": "like", "displayed": [], **more}
    return EventRecord(f"f{number}", at, request_id=request, user=user, **fields)


def write_segment(directory, records):
    """Add a closed segment to a journal, and return its path."""
    path = directory / new_name()
    path.write_bytes(FrameEncoder().encode([pack(record) for record in records]))
    return path


def records_in(directory):
    """Return all records of a journal in files, in order."""
    return [
        record_of(fields)
        for segment in segments_in(directory)
        for part in segment.read()
        if isinstance(part, Frame)
        for fields in part.records
    ]


def ids_in(directory):
    """Return the id of each record of a journal in files."""
    return [record.record for record in records_in(directory)]
