"""Two small stages with the contract's every feature, for tests of planning and running.

``numbers`` writes one file of numbers a unit; ``squares`` keeps the even ones squared and drops the odd ones, in two
steps, with a ledger.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq

from infra.config import Config, Execution
from infra.errors import InputError
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from infra.store.cache import local_file


class NumbersConfig(Config):
    files: int = 4
    rows: int = 10
    seconds_a_unit: Annotated[float, Execution()] = 0.0
    broken_units: Annotated[int, Execution()] = 0
    warn: str = ""


def _no_inputs(config: NumbersConfig) -> Mapping[str, str]:
    return {}


def _number_units(context: StageContext) -> Iterator[Unit]:
    for index in range(context.config.files):
        yield Unit(unit_id("numbers", index), {"index": index}, files=(f"numbers-{index}",), bytes=context.config.rows)


def _write_numbers(unit: Unit, context: UnitContext) -> Counts:
    config: NumbersConfig = context.config
    time.sleep(config.seconds_a_unit)
    index = int(str(unit.payload["index"]))
    if index < config.broken_units:
        raise InputError("this unit is broken", where=unit.id)
    first = index * config.rows
    with context.output(f"data/{unit.id}.parquet") as path:
        pq.write_table(pa.table({"number": list(range(first, first + config.rows))}), path)
    return Counts(config.rows, config.rows)


class SquaresConfig(Config):
    modulus: int = 2
    lose_a_row: bool = False
    seconds_a_unit: Annotated[float, Execution()] = 0.0


def _numbers(config: SquaresConfig) -> Mapping[str, str]:
    return {"numbers": "numbers"}


def _split_units(context: StageContext) -> Iterator[Unit]:
    for output in context.inputs["numbers"].files("data/", ".parquet"):
        yield unit_of_files(unit_id("split", output.digest), {"path": output.path}, [output])


def _split(unit: Unit, context: UnitContext) -> Counts:
    time.sleep(context.config.seconds_a_unit)
    source = context.inputs["numbers"].local(str(unit.payload["path"]))
    with context.intermediate(f"{unit.id}.parquet") as path:
        pq.write_table(pq.read_table(source), path)
    return Counts()


def _square_units(context: StageContext) -> Iterator[Unit]:
    for file in context.step_files("split"):
        yield Unit(unit_id("square", Path(file).name), {"file": file})


def _square(unit: Unit, context: UnitContext) -> Counts:
    config: SquaresConfig = context.config
    time.sleep(config.seconds_a_unit)
    numbers = pq.read_table(local_file(str(unit.payload["file"])))["number"].to_pylist()
    kept = [number * number for number in numbers if number % config.modulus == 0]
    dropped = [number for number in numbers if number % config.modulus]
    name = Path(str(unit.payload["file"])).name
    with context.output(f"data/{name}") as path:
        pq.write_table(pa.table({"square": kept}), path)
    with context.output(f"ledger/{name}") as path:
        pq.write_table(pa.table({"number": dropped}), path)
    incoming = len(numbers) - (1 if config.lose_a_row else 0)
    return Counts(incoming, len(kept) - (1 if config.lose_a_row else 0), {"odd": len(dropped)})


def _sum_up(context: StageContext) -> None:
    files = [o.path for receipt in context.receipts["square"] for o in receipt.outputs if o.path.startswith("data/")]
    urls = [f"{context.dataset_root}/{path}" for path in files]
    total = sum(sum(pq.read_table(local_file(url))["square"].to_pylist()) for url in urls)
    context.stats["total"] = total
    with context.output("data/total.txt") as path:
        path.write_text(str(total))


def _warn(context: StageContext) -> None:
    if context.config.warn:
        context.warnings.append(context.config.warn)


NUMBERS = ShardStage(
    name="numbers",
    code_version=1,
    config=NumbersConfig,
    reference="tests.infra.toy:NUMBERS",
    inputs=_no_inputs,
    steps=(Step("write", _number_units, _write_numbers),),
    finalize=_warn,
)

SQUARES = ShardStage(
    name="squares",
    code_version=1,
    config=SquaresConfig,
    reference="tests.infra.toy:SQUARES",
    inputs=_numbers,
    steps=(Step("split", _split_units, _split), Step("square", _square_units, _square)),
    finalize=_sum_up,
    consumes="numbers",
    ledgered=True,
)
