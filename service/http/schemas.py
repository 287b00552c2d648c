"""The HTTP bodies: what is accepted, field by field, and what comes back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Id = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=256)]
# Of lists that have no bound of their own: each broken entry costs time before it is refused.
MAX_ENTRIES = Field(max_length=10_000)
Features = dict[str, Any]  # checked against the bundle's feature schema, not here


class StrictModel(BaseModel):
    """Unknown fields, coercions and NaN are refused: a silent default hides a caller's bug.

    Empty defaults are made by factories: pydantic makes a deep copy of any other, for each object.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _accept_id(schema: dict[str, Any]) -> None:
    """Tell in the published schema that an id alone will do."""
    entry = dict(schema)
    schema.clear()
    schema["title"] = entry.pop("title")
    schema["description"] = entry.pop("description")
    schema["anyOf"] = [{"type": "string", "minLength": 1, "maxLength": 256}, entry]
    schema["examples"] = ["260", {"id": "1721", "label": 0.0}]


def _accept_ids(schema: dict[str, Any]) -> None:
    """Tell in the published schema that a list of ids will do."""
    ids = {"type": "string", "minLength": 1, "maxLength": 256}
    schema["oneOf"] = [*schema["oneOf"], {"type": "array", "items": ids, "minItems": 1}]


class HistoryEntry(StrictModel):
    """One recent interaction: an item id alone (a positive), or with its label."""

    model_config = ConfigDict(json_schema_extra=_accept_id)

    id: Id
    label: float = Field(1.0, ge=0, le=1, description="1 liked .. 0 shown and passed over")

    @model_validator(mode="before")
    @classmethod
    def _from_id(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value


class User(StrictModel):
    """Who asks; everything optional."""

    id: Id | None = None
    history: list[HistoryEntry] = Field(
        default_factory=list, description="recent interactions, most recent last"
    )
    features: Features = Field(default_factory=dict, description="user features of the schema")


class Candidate(StrictModel):
    """One candidate; unknown ids and missing features fall to the schema's defaults."""

    id: Id
    score: float | None = Field(
        None, description="the initial ranker's score, if the model uses it"
    )
    features: Features | None = Field(None, description="inline features; they override the table")
    groups: dict[Text, Text] = Field(
        default_factory=dict,
        max_length=32,
        description="values of attributes that `constraints.max_per_group` may limit",
    )


class CandidateColumns(StrictModel):
    """The candidates by column: a list for each field, all as long as `id`."""

    id: list[Id] = Field(min_length=1)
    score: Annotated[list[float | None], MAX_ENTRIES] | None = None
    features: dict[str, list[Any]] = Field(default_factory=dict)
    groups: dict[Text, Annotated[list[Text | None], MAX_ENTRIES]] = Field(
        default_factory=dict, max_length=32
    )

    def uneven(self) -> tuple[str, int] | None:
        """The first column that is not as long as `id`, and its length."""
        columns: list[tuple[str, list[Any]]] = []
        if self.score is not None:
            columns.append(("score", self.score))
        for field in ("features", "groups"):
            named = getattr(self, field)
            columns += [(f"{field}.{name}", values) for name, values in named.items()]
        lengths = ((name, len(values)) for name, values in columns)
        return next(((name, n) for name, n in lengths if n != len(self.id)), None)


def _candidates_form(value: Any) -> str:
    return "columns" if isinstance(value, dict | CandidateColumns) else "records"


Candidates = Annotated[
    Annotated[list[Candidate], Field(min_length=1), Tag("records")]
    | Annotated[CandidateColumns, Tag("columns")],
    Discriminator(_candidates_form),
]


class Reasoning(StrictModel):
    """How much the model may think; what is not given is the bundle's."""

    budget: int | None = Field(None, ge=0, description="most reasoning steps per position")
    entropy_threshold: float | None = Field(
        None,
        ge=-1e9,
        le=1e9,
        description="nats; a choice above it is reasoned about, negative: always",
    )


class Sampling(StrictModel):
    """Sample slates at the recommending temperature; the evaluator's favourite is the answer."""

    slates: int = Field(ge=1, le=64, description="how many to choose from; one is a sample as such")
    seed: int = Field(ge=0, lt=1 << 63, description="the same seed, the same slates")


class Temperatures(StrictModel):
    """What is not given is the bundle's."""

    reason: float | None = Field(None, ge=0.01, le=100, description="of the reasoning aggregate")
    recommend: float | None = Field(None, ge=0.01, le=100, description="of the choice of an item")


class Constraints(StrictModel):
    """What the slate must keep to; refused before the run where it cannot be met."""

    pinned: dict[Id, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="candidate id -> its position, counted from 0"
    )
    blocked: Annotated[list[Id], MAX_ENTRIES] = Field(
        default_factory=list, description="ids that must not be in the slate"
    )
    max_per_group: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict,
        max_length=1,
        description="an attribute and the most items of one value: a category of the model's "
        "schema, or a key of `candidates[].groups`",
    )


class RerankRequest(StrictModel):
    """One candidate list, in the order of the initial ranking."""

    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    user: User | None = None
    context: Features = Field(default_factory=dict, description="context features of the schema")
    candidates: Candidates = Field(
        description="records, columns, or ids alone", json_schema_extra=_accept_ids
    )
    slate_size: int | None = Field(None, ge=1, description="default: the bundle's slate length")
    reasoning: Reasoning | None = None
    temperatures: Temperatures | None = None
    sampling: Sampling | None = None
    constraints: Constraints | None = None
    timeout_ms: float | None = Field(None, gt=0, description="deadline from the body's arrival")
    model: Id | None = Field(None, description="of several that are served, by name")
    priority: Literal["interactive", "background"] = Field(
        "interactive", description="background waits behind interactive, and is shed first"
    )
    explain: bool = Field(False, description="per position: probability, alternatives, movement")


class BatchRequest(StrictModel):
    """Several lists in one call."""

    requests: list[RerankRequest] = Field(min_length=1)


class Alternative(BaseModel):
    """An item that could have been chosen here, and how likely it was."""

    id: str
    probability: float


class Explanation(BaseModel):
    """Why this item stands here, as far as the model's own figures tell."""

    probability: float | None = Field(description="of this choice, exp(logprob)")
    alternatives: list[Alternative] = Field(description="the three nearest that were still free")
    moved: int = Field(description="initial position less position: positive is up")


class SlateEntry(BaseModel):
    """One position of the slate; the model's own figures are null in a degraded answer."""

    id: str
    position: int
    initial_position: int
    logprob: float | None = Field(description="of this choice, at the recommending temperature")
    entropy: float | None = Field(description="nats, before any reasoning")
    entropy_after: float | None = Field(description="nats, when the item was chosen")
    reasoning_steps: int
    explanation: Explanation | None = Field(None, description="only where `explain` asks for it")


class ReasoningUsed(BaseModel):
    """Steps taken and steps that were allowed, over the slate."""

    steps_used: int
    budget: int = Field(description="granted, over the slate")
    budget_per_position: int = Field(description="granted; lower than asked where degraded says so")
    budget_asked: int = Field(description="per position, by the request or the bundle")
    entropy_threshold: float


class Latency(BaseModel):
    """Milliseconds; the parts add up to the total."""

    total: float
    parse: float
    features: float
    queue: float
    inference: float
    respond: float


class Degraded(BaseModel):
    """Why the answer is the initial ranking, or was reasoned about less than asked."""

    reason: Literal["deadline", "overload", "model_error", "reduced_budget"]


class Model(BaseModel):
    """Which bundle answered."""

    name: str
    version: str
    variant: Literal["active", "canary"]


class RerankResponse(BaseModel):
    """The re-ranked slate."""

    request_id: str
    model: Model
    slate: list[SlateEntry]
    reasoning: ReasoningUsed
    utility: float | None = Field(description="the evaluator's estimate, of a sampled slate")
    latency_ms: Latency
    degraded: Degraded | None


class BatchResponse(BaseModel):
    """One answer per list, in order."""

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
    "user": {"history": [{"id": "260", "label": 1.0}, {"id": "1721", "label": 0.0}]},
    "candidates": [{"id": i} for i in ("1", "296", "1196", "1580", "2571", "3114", "4993", "6539")],
    "slate_size": 5,
    "reasoning": {"budget": 2},
}
