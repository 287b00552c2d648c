"""The bodies of requests and responses, field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from service.http.explanation_schemas import Explanation
from service.http.fields import (
    COLUMNS,
    ENTRY,
    ID,
    IDS,
    MAX_ENTRIES,
    RECORDS,
    Boost,
    Boosts,
    Diversities,
    Explain,
    Features,
    Name,
    PackedNumbers,
    Scores,
    StrictModel,
    Text,
    Topics,
    Values,
)
from service.http.ids import Id, KeyId
from service.http.plain import read_history, read_ids
from service.http.state_schemas import StateUsed
from service.ranking.decision import StepsMissing

Form = Literal["records", "ids", "columns"]  # of the candidates
Reason = Literal["deadline", "overload", "model_error", "state", "reduced_budget"]


class HistoryEntry(StrictModel):
    """One past impression with its label."""

    id: Id
    label: float | None = Field(
        1.0, ge=0, le=1, description="scaled label, from 1, liked, to 0, displayed and passed over"
    )
    features: Features | None = Field(
        None, description="item features of the schema; they override the item table"
    )


def _history_tag(value: Any) -> str:
    return ENTRY if type(value) is dict or isinstance(value, HistoryEntry) else ID


# An id alone counts as liked.
HistoryItem = Annotated[
    Annotated[HistoryEntry, Tag(ENTRY)] | Annotated[Id, Tag(ID)], Discriminator(_history_tag)
]


Entries = Annotated[list[HistoryItem], WrapValidator(read_history)]


class User(StrictModel):
    """The user; every field is optional. A history of ids and labels alone becomes their pairs."""

    id: Id | None = None
    history: Entries | None = Field(
        None,
        description="past impressions, the latest last; an id alone counts as liked",
        examples=[["480", {"id": "1721", "label": 0.0}]],
    )
    features: Features | None = Field(None, description="user features of the schema")


class PlainCandidate(StrictModel):
    """A candidate without the fields of an intent, which most requests lack."""

    id: Id
    score: float | None = Field(
        None, description="the initial ranker's score, if the model uses it"
    )
    features: Features | None = Field(
        None, description="inline features; they override the item table"
    )
    groups: dict[Text, Text | None] | None = Field(
        None,
        max_length=32,
        description="values of attributes that `constraints.max_per_group` may limit",
    )


class Candidate(PlainCandidate):
    """One candidate; unknown ids and missing features take the schema's defaults."""

    topics: dict[Text, Topics | None] | None = Field(
        None, max_length=32, description="values of attributes that `diversity` may name"
    )
    boost: Boost | None = Field(None, description="added to the logit, in nats")


class CandidateColumns(StrictModel):
    """The candidates by column: one list or array per field, each as long as `id`."""

    id: list[Id] = Field(min_length=1)
    score: Scores | None = None
    features: dict[str, Values | None] | None = None
    groups: dict[Text, Annotated[list[Text | None], MAX_ENTRIES] | None] | None = Field(
        None, max_length=32
    )
    topics: dict[Text, Annotated[list[Topics | None], MAX_ENTRIES] | None] | None = Field(
        None, max_length=32
    )
    boost: Boosts | None = None

    def uneven(self) -> tuple[str, int] | None:
        """Return the first column that is not as long as `id`, and its length."""
        columns: list[tuple[str, list[Any] | PackedNumbers]] = []
        for field, column in (("score", self.score), ("boost", self.boost)):
            if column is not None:
                columns.append((field, column))
        for field in ("features", "groups", "topics"):
            named = getattr(self, field) or {}
            columns += [
                (f"{field}.{name}", values) for name, values in named.items() if values is not None
            ]
        lengths = (
            (name, values.shape[0] if isinstance(values, PackedNumbers) else len(values))
            for name, values in columns
        )
        return next(((name, n) for name, n in lengths if n != len(self.id)), None)


def candidates_form(value: Any) -> Form:
    """Return the form of candidates, validated or not; ids alone are those of the first entry."""
    if isinstance(value, list):
        return "records" if not value or isinstance(value[0], (dict, PlainCandidate)) else "ids"
    return "columns" if isinstance(value, (dict, CandidateColumns)) else "records"


INTENT_FIELDS = Candidate.model_fields.keys() - PlainCandidate.model_fields.keys()
PLAIN_RECORDS = TypeAdapter(list[PlainCandidate])


def _as_plain(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate records without fields of an intent as plain ones, because each field takes time."""
    try:
        if value and INTENT_FIELDS.isdisjoint(set().union(*value)):
            return PLAIN_RECORDS.validate_python(value)
    except (TypeError, ValidationError):
        pass  # the errors are those of all fields
    return validate(value)


Records = Annotated[list[Candidate], Field(min_length=1), WrapValidator(_as_plain)]
Candidates = Annotated[
    Annotated[Records, Tag(RECORDS)]
    | Annotated[list[Id], Field(min_length=1), WrapValidator(read_ids), Tag(IDS)]
    | Annotated[CandidateColumns, Tag(COLUMNS)],
    Discriminator(lambda value: f"<{candidates_form(value)}>"),
]


class Reasoning(StrictModel):
    """Limits of reasoning; a missing field takes the bundle's default."""

    budget: int | None = Field(None, ge=0, description="maximum reasoning steps per position")
    entropy_threshold: float | None = Field(
        None,
        ge=-1e9,
        le=1e9,
        description="nats; a position with a higher entropy takes a step; negative: always",
    )


class Sampling(StrictModel):
    """Sample slates at the recommending temperature and return the evaluator's favourite."""

    slates: int = Field(ge=1, le=64, description="number of samples to choose from")
    seed: int = Field(ge=0, lt=1 << 63, description="the same seed gives the same slates")


class Temperatures(StrictModel):
    """Temperatures; a missing field takes the bundle's default."""

    reason: float | None = Field(None, ge=0.01, le=100, description="of the reasoning aggregate")
    recommend: float | None = Field(None, ge=0.01, le=100, description="of the choice of an item")


class Constraints(StrictModel):
    """Constraints on the slate; they are refused before the run if they cannot be met."""

    pinned: dict[KeyId, Annotated[int, Field(ge=0)]] | None = Field(
        None, description="candidate id -> its position, counted from 0"
    )
    blocked: Annotated[list[Id], MAX_ENTRIES] | None = Field(
        None, description="ids that must not be in the slate"
    )
    max_per_group: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        None,
        max_length=1,
        description="an attribute and the maximum items per value of it: a category of the model's "
        "schema, or a key of `candidates[].groups`",
    )

    @field_validator("pinned", mode="wrap")
    @classmethod
    def _refuse_merged_keys(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """Refuse two keys that are one id, as " 1" and "1", or 1 and "1" in MessagePack."""
        pinned = validate(value)
        if pinned is not None and len(pinned) < len(value):
            raise PydanticCustomError("repeated_id", 'each id once; 1, "1" and " 1" are one id')
        return pinned


class RerankRequest(StrictModel):
    """One candidate list, in the order of the initial ranking."""

    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    user: User | None = None
    context: Features | None = Field(None, description="context features of the schema")
    candidates: Candidates = Field(
        description="records, columns, or ids alone; an integer is the same id as its text, blanks "
        "around an id do not count, and the response has each id as it was sent"
    )
    slate_size: int | None = Field(
        None, ge=1, description="positions; default: the bundle's slate length"
    )
    reasoning: Reasoning | None = None
    temperatures: Temperatures | None = None
    sampling: Sampling | None = None
    constraints: Constraints | None = None
    diversity: Diversities | None = Field(
        None, description="a bonus in the decoding loop, or up to four for different attributes"
    )
    timeout_ms: float | None = Field(
        None, gt=0, description="deadline, counted from the arrival of the body"
    )
    model: Name | None = Field(None, description="name of the model, if several are served")
    priority: Literal["interactive", "background"] | None = Field(
        "interactive", description="background waits behind interactive, and is shed first"
    )
    explain: Explain | None = Field(
        False,
        description="per position: probability, alternatives, movement; steps: and the states of "
        "reasoning",
    )


class BatchRequest(StrictModel):
    """Several lists in one call."""

    requests: list[RerankRequest] = Field(min_length=1)


class SlateEntry(BaseModel):
    """One position of the slate; the model's figures are null in a degraded response."""

    id: str | int = Field(description="as the request has it")
    position: int
    initial_position: int
    logprob: float | None = Field(
        description="log-probability of the choice, at the recommending temperature"
    )
    entropy: float | None = Field(description="nats, before any reasoning")
    entropy_after: float | None = Field(
        description="nats, at the choice, after any reasoning steps"
    )
    reasoning_steps: int
    explanation: Explanation | None = Field(None, description="only if the request sets `explain`")


class ReasoningUsed(BaseModel):
    """Reasoning steps taken and granted."""

    steps_used: int
    budget: int = Field(description="steps granted, over the slate")
    budget_per_position: int = Field(
        description="steps granted; below `budget_asked` if `degraded` is `reduced_budget`"
    )
    budget_asked: int = Field(description="steps per position, requested or the bundle's default")
    entropy_threshold: float


class Latency(BaseModel):
    """Milliseconds per stage; the stages add up to the total."""

    total: float
    parse: float
    state: float | None = Field(
        None, description="the lookup in the entity store; absent without a store"
    )
    features: float
    queue: float
    inference: float
    respond: float


class Degraded(BaseModel):
    """The reason for the initial ranking, for fewer reasoning steps, or for an unknown user."""

    reason: Reason = Field(description="the gravest of `reasons`")
    reasons: list[Reason] = Field(description="state: ranked without the entity store")


class Model(BaseModel):
    """The bundle that ranked the list."""

    name: str
    version: str
    variant: Literal["active", "canary"]


class RerankResponse(BaseModel):
    """The re-ranked slate."""

    request_id: str
    model: Model
    slate: list[SlateEntry]
    reasoning: ReasoningUsed
    utility: float | None = Field(description="the evaluator's estimate of a sampled slate")
    unknown_candidates: int = Field(
        description="candidates that neither the model's item table nor the entity store has"
    )
    latency_ms: Latency
    degraded: Degraded | None
    state: StateUsed | None = Field(
        None, description="only if the request sets `explain` and the store was asked"
    )
    steps_missing: StepsMissing | None = Field(
        None,
        description='only if `explain` is "steps" and the slate has none: it was not ranked; the '
        "graph of the steps was still being opened, so that a later request has them; they were "
        "not ready by the deadline; too many other lists waited for theirs; or they failed",
    )


class BatchResponse(BaseModel):
    """One response per list, in order."""

    responses: list[RerankResponse]


class FieldProblem(BaseModel):
    """One broken rule."""

    field: str
    rule: str
    value: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldProblem] = []


EXAMPLE = {
    "user": {"history": [{"id": "480", "label": 1.0}, {"id": "1721", "label": 0.0}]},
    "candidates": [
        {"id": i} for i in ("10", "296", "1196", "1580", "2571", "3114", "4993", "6539")
    ],
    "slate_size": 5,
    "reasoning": {"budget": 2},
}
