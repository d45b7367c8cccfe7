"""The output of a stage's programs: written to the log, and read for progress and memory."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from enginefarm.contract.work import Job
from toolchains.toolchain import Report, Toolchain
from workers.reporting.heartbeat import Heartbeat
from workers.reporting.job_log import JobLog

log = logging.getLogger(__name__)

_MOST_BYTES = 2**53 - 1  # a program prints any number, and no JSON has a larger one


@dataclass
class Peaks:
    """The most memory that a stage used, in bytes, as its programs and the kernel report it."""

    memory: int = 0
    gpu_memory: int = 0

    def see(self, report: Report) -> None:
        """Raise the peaks to those of the report."""
        self.memory = max(self.memory, min(report.peak_memory or 0, _MOST_BYTES))
        self.gpu_memory = max(self.gpu_memory, min(report.peak_gpu_memory or 0, _MOST_BYTES))

    def summary(self) -> dict[str, int]:
        """The peaks that were reported, by name; empty if none was."""
        return {name: size for name, size in asdict(self).items() if size}


class ProgramOutput:
    """Writes the output of a program to the log, and reads progress and memory from its lines.

    `span`: the part of the stage's progress (0 to 1) that is this program's.
    """

    def __init__(
        self,
        toolchain: Toolchain,
        job: Job,
        span: tuple[float, float],
        *,
        joblog: JobLog,
        heartbeat: Heartbeat,
        peaks: Peaks,
    ) -> None:
        self._toolchain = toolchain
        self._job = job
        self._span = span
        self._joblog = joblog
        self._heartbeat = heartbeat
        self._peaks = peaks
        self._unfinished_line = b""
        self._reader_failed = False

    def write(self, output: bytes) -> None:
        """Take the next bytes of the output; they may begin and end within a line."""
        self._joblog.write(output)
        *lines, unfinished = (self._unfinished_line + output).split(b"\n")
        self._unfinished_line = unfinished[-4096:]  # a program may print gigabytes without the end of a line
        for line in lines:
            text = line.decode(errors="replace")
            report = None
            try:
                report = self._toolchain.read_line(self._job.stage, text)
            except Exception as error:  # a line that a reader did not expect must not fail the stage
                if not self._reader_failed:
                    # Once: the program may print millions of such lines.
                    log.warning("%s cannot read a line of its program", self._job.toolchain, exc_info=error)
                self._reader_failed = True
            if report is not None:
                self._heartbeat.report(report.within(self._span))
                self._peaks.see(report)
