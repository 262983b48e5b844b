"""The forms: what the Prefect UI asks for before it runs the whole path or one stage.

* Every field has a default, a title, a description and bounds, so *Quick run* works and a wrong value is refused before
  anything starts.
* A stage's form holds the stage's own configuration, field by field. Its deployment fills in the recipe's values.
* A deployment's form is its own: whoever gives a part of it (a schedule, a call of the API) changes that part, and the rest
  stays as deployed (``completed``). Prefect by itself would replace the whole form by the part.
* Forms stay simple: no unions of models and no free-form dictionaries, which the UI cannot draw. Nor does a module of
  forms postpone the evaluation of annotations: Prefect builds the schema from them.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from flows.recipe import Recipe, load_recipe, refuse_code_beside, replace_config
from flows.stages import STAGE_NAMES, offered_stages
from infra.config import Config, in_plain_words
from infra.planning import StageSelection
from infra.stage import Stage

CRAWL_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9._-]{2,60})?$"
StageName = Annotated[
    str, Field(json_schema_extra=lambda schema: schema.update(enum=[*STAGE_NAMES, *offered_stages()]))
]
"""A recipe may have further stages, of other packages: it is what says whether there is one."""

WORKSPACE: Any = Field(
    "",
    title="Workspace",
    description="Where datasets, work and runs live. Empty: HEADWATER_HOME of the worker, or ./workspace.",
)
"""Asked by every form after what it runs; the UI would ask first what stands in a class that all derive from."""

Form = TypeVar("Form", bound=BaseModel)


class RecipeParams(BaseModel):
    """What every form asks: which recipe, where."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=in_plain_words)

    recipe: str = Field(
        "demo",
        title="Recipe",
        description="A bundled recipe's name, or the path of a YAML file where the flow runs. A deployment has its own.",
    )
    overrides: list[str] = Field(
        [],
        title="Overrides",
        description="Single fields of any stage, one key=value a line: dedup.bands=20, execution.workers=8.",
    )
    workspace: str = WORKSPACE
    crawl: str = Field(
        "",
        title="Crawl",
        description="A crawl's name (CC-MAIN-2026-46): run the recipe on it as the next one of its series. Empty: as it stands.",
        pattern=CRAWL_PATTERN,
    )

    def load(self) -> Recipe:
        return load_recipe(self.recipe, self.overrides)


class PipelineParams(RecipeParams):
    """The whole path."""

    start_at: StageName | None = Field(
        None, title="Start at", description="First stage to consider; the ones before it must be published."
    )
    stop_after: StageName | None = Field(None, title="Stop after", description="Last stage to consider.")
    only: list[StageName] = Field(
        [], title="Only", description="Consider these stages and no others; wins over start at and stop after."
    )
    force: list[StageName] = Field(
        [], title="Force", description="Build these again though they are published; what follows only if bytes change."
    )
    dry_run: bool = Field(False, title="Dry run", description="Publish the plan and run nothing.")
    dispatch: Literal["inline", "deployments"] = Field(
        "inline",
        title="Dispatch",
        description="Run the stages in this flow's process, or each through its deployment on its own work pool.",
    )

    @model_validator(mode="after")
    def _stages_exist(self) -> "PipelineParams":
        named = {*self.only, *self.force, self.start_at, self.stop_after} - {None, *STAGE_NAMES, *offered_stages()}
        unknown = named - {node.name for node in self.load().nodes} if named else set()
        if unknown:
            raise ValueError(f"there is no stage {min(map(str, unknown))!r}")
        return self

    @property
    def selection(self) -> StageSelection:
        return StageSelection(self.start_at, self.stop_after, tuple(self.only), tuple(self.force))


class StageParams(RecipeParams):
    """One stage. Forms derive from it and add ``config``, the stage's own configuration."""

    @model_validator(mode="before")
    @classmethod
    def _names_no_code(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("config"), Mapping):
            refuse_code_beside(str(given.get("recipe", cls.model_fields["recipe"].default)), given["config"])
        return given

    force: bool = Field(False, title="Force", description="Build the dataset again though it is published.")
    run: str = Field("", title="Run", description="The run this stage is a part of. Empty: a run of its own.")

    def load_with_config(self, stage: str) -> Recipe:
        """The recipe, with what this form says of the stage's configuration; the rest of it stays the recipe's."""
        recipe = self.load()
        if "config" not in self.model_fields_set:
            return recipe
        given: Config = self.config  # type: ignore[attr-defined]
        before = next((node.config for node in recipe.nodes if node.name == stage), None)
        own = before.model_dump(mode="json") if before is not None else {}
        return replace_config(recipe, stage, type(given).model_validate(overlaid(own, given)))


class AblateParams(BaseModel):
    """A lab."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=in_plain_words)

    lab: str = Field(
        "filters", title="Lab", description="A bundled lab's name, or the path of a YAML file where the flow runs."
    )
    overrides: list[str] = Field(
        [],
        title="Overrides",
        description="Single fields of the lab or of its base recipe, one key=value a line: tokens=2000000, dedup.bands=20.",
    )
    workspace: str = WORKSPACE
    only: list[str] = Field(
        [], title="Only", description="Train these arms, and those that tell what their differences mean. Empty: all."
    )
    seeds: int = Field(
        0, ge=0, le=100, title="Seeds", description="Trainings of every arm and rate; 0: as the lab says."
    )
    dry_run: bool = Field(
        False, title="Plan only", description="Say what is to be trained and how long it takes, and train nothing."
    )


class MixParams(BaseModel):
    """Weights of a recipe's sources."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=in_plain_words)

    recipe: str = Field(
        "demo", title="Recipe", description="A bundled recipe's name, or the path of a YAML file where the flow runs."
    )
    overrides: list[str] = Field(
        [], title="Overrides", description="Single fields of any stage, one key=value a line: pretrain.model.layers=2."
    )
    workspace: str = WORKSPACE
    sources: list[str] = Field([], title="Sources", description="The sources to weigh. Empty: all of the recipe's.")
    targets: list[str] = Field(
        [],
        title="Targets",
        description="Texts to be good at, FILE or FILE:FIELD (JSON lines or Parquet). Empty: the default set of a lab.",
    )
    tokens: int = Field(
        0, ge=0, title="Tokens", description="What each model is trained on; 0: four passes over the smallest source."
    )
    max_passes: float = Field(4.0, ge=0.1, title="Most passes", description="Passes over a source at most.")
    piece: Literal["token", "item"] = Field("token", title="Piece", description="What is mixed as a whole.")
    dry_run: bool = Field(False, title="Plan only", description="Say what is to be built, and build nothing.")


@cache
def stage_params(stage: Stage) -> type[StageParams]:
    """The form of one stage: always the same class, because a flow accepts no other."""
    name, config = stage.name, stage.config
    described = Field(
        default_factory=config, title="Configuration", description=f"Settings of stage {name}; the recipe's if absent."
    )
    fields: dict[str, Any] = {"config": (config, described)}
    title = "".join(part.capitalize() for part in name.split("_"))
    return create_model(f"{title}Params", __base__=StageParams, __doc__=f"Stage {name}.", **fields)


def completed(form: Form, deployed: Mapping[str, Any]) -> Form:
    """The form with what was not filled in as its deployment has it."""
    own = {name: value for name, value in deployed.items() if name in type(form).model_fields}
    return type(form).model_validate(overlaid(own, form))


def overlaid(own: Mapping[str, Any], form: BaseModel) -> dict[str, Any]:
    """Plain data with what a form sets laid over it. Groups of fields are gone through; lists and tables are replaced."""
    result = dict(own)
    plain = form.model_dump(mode="json", exclude_unset=True)
    for name in form.model_fields_set:
        value, before = getattr(form, name), result.get(name)
        if isinstance(value, BaseModel) and isinstance(before, Mapping):
            result[name] = overlaid(before, value)
        else:
            result[name] = plain[name]
    return result


def pipeline_params(recipe: Recipe, selection: StageSelection, workspace: str, crawl: str = "") -> PipelineParams:
    """The form that says the same as a recipe given on the command line."""
    return PipelineParams(
        recipe=recipe.address,
        overrides=list(recipe.overrides),
        workspace=workspace,
        crawl=crawl,
        start_at=selection.start_at,
        stop_after=selection.stop_after,
        only=list(selection.only),
        force=list(selection.force),
    )
