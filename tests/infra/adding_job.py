"""A job stage for tests of publishing: one rank without torch that adds up its input's numbers."""

import pyarrow.parquet as pq

from infra.config import Config
from infra.job import JobRequest, JobSpec, emit, finish
from infra.job_main import job_main
from infra.stage import JobStage


class AddConfig(Config):
    times: int = 1


ADD = JobStage(
    name="add",
    code_version=1,
    config=AddConfig,
    inputs=lambda config: {"numbers": "numbers"},
    job=lambda config: JobSpec("tests.infra.adding_job"),
)


def run(request: JobRequest) -> None:
    numbers = request.inputs["numbers"]
    files = [numbers.local(output.path) for output in numbers.files("data/")]
    total = sum(sum(pq.read_table(path)["number"].to_pylist()) for path in files)
    emit(request, "progress", done=1, total=1)
    request.data_dir.mkdir(parents=True, exist_ok=True)
    (request.data_dir / "total.txt").write_text(str(total * AddConfig.model_validate(request.config).times))
    (request.data_dir / "log.txt").write_text(str(request.work_dir))
    finish(request, {"data/total.txt": True, "data/log.txt": False}, {"total": total})


if __name__ == "__main__":
    job_main(run)
