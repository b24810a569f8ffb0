"""From a request trace to minutes: Presurge beside the guide's three steps written in pandas, in the same run.

    python benchmarks/prepare.py                     1.43 million requests over 61 days, as in BurstGPT
    python benchmarks/prepare.py --rows 100000000    Presurge alone, at a tenth of the rows and at all of them

Each contender runs in processes of its own: CPU seconds and peak memory are the kernel's count of the whole process,
imports included, at one thread; "job" is the CPU time of the steps once the libraries are loaded. The pandas way is written here from the description of the
guide's steps: sums by exact stamp, a left join on the grid of seconds, sums over 60 seconds, four parts; CSV in between.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

BURSTGPT_ROWS = 1_429_737
DAYS = 61.0
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
GUIDE_SUMS = ["Concurrent_requests", "Request_tokens_sum", "Response_tokens_sum"]


@dataclass
class Measured:
    """What one or more processes took together."""

    cpu: float = 0.0
    job: float = 0.0
    wall: float = 0.0
    peak_mib: float = 0.0


# What the processes do


def guide_dense(folder: Path) -> None:
    import pandas as pd

    trace = pd.read_csv(folder / "BurstGPT_1.csv")
    by_stamp = trace.groupby("Timestamp").agg(
        Concurrent_requests=("Timestamp", "size"),
        Request_tokens_sum=("Request tokens", "sum"),
        Response_tokens_sum=("Response tokens", "sum"),
    )
    first, last = int(trace["Timestamp"].min()), int(trace["Timestamp"].max())
    grid = pd.DataFrame({"Timestamp": range(first, last + 1)})
    dense = grid.merge(by_stamp.reset_index(), on="Timestamp", how="left")
    dense[GUIDE_SUMS] = dense[GUIDE_SUMS].fillna(0).astype(int)
    dense.insert(1, "Time_interval", 1.0)
    dense.to_csv(folder / "BurstGPT_1_dense_timeseries.csv", index=False)


def guide_compress(folder: Path) -> None:
    import pandas as pd

    dense = pd.read_csv(folder / "BurstGPT_1_dense_timeseries.csv")
    dense["Timestamp"] = dense["Timestamp"] // 60 * 60
    groups = dense.groupby("Timestamp")
    minutes = groups[GUIDE_SUMS].sum()
    present = groups.size()
    names = ["Avg_concurrent_requests", "Avg_request_tokens_per_sec", "Avg_response_tokens_per_sec"]
    for name, column in zip(names, GUIDE_SUMS, strict=True):
        minutes[name] = minutes[column] / present
    minutes = minutes.reset_index()
    minutes.insert(1, "Time_interval", minutes["Timestamp"].diff().fillna(60))
    minutes.to_csv(folder / "BurstGPT_1_compressed_60s.csv", index=False)


def guide_split(folder: Path) -> None:
    import pandas as pd

    minutes = pd.read_csv(folder / "BurstGPT_1_compressed_60s.csv")
    cuts = [0, *(int(len(minutes) * share) for share in (0.6, 0.7, 0.9)), len(minutes)]
    (folder / "split").mkdir(exist_ok=True)
    for part, first, last in zip(("train", "val", "rl", "test"), cuts, cuts[1:], strict=False):
        minutes.iloc[first:last].to_csv(folder / "split" / f"{part}.csv", index=False)


def presurge_minutes(folder: Path) -> None:
    from presurge.workflows.prepare import prepare

    prepare(folder / "BurstGPT_1.csv", folder / "minutes")


def presurge_dense(folder: Path) -> None:
    from presurge.workflows.prepare import PrepareConfig, prepare

    prepare(folder / "BurstGPT_1.csv", folder / "dense", PrepareConfig(dense=True))


def peak_mib() -> float:
    """The most memory that this process held so far, in MiB.

    ``getrusage`` would count the process that started this one too; it serves where there is no ``/proc``.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


JOBS = {
    job.__name__: job for job in (guide_dense, guide_compress, guide_split, presurge_minutes, presurge_dense)
}


def work(name: str, folder: Path) -> None:
    """Run one job in this process and print its CPU time, once it has run on the head of the trace to load its libraries."""
    with tempfile.TemporaryDirectory() as small:
        for file in folder.glob("BurstGPT_1*.csv"):
            with file.open() as stream:
                (Path(small) / file.name).write_text("".join(islice(stream, 1000)))
        JOBS[name](Path(small))
    began = time.process_time()
    JOBS[name](folder)
    print(time.process_time() - began, peak_mib())


# What this process does


def measure(folder: Path, *names: str) -> Measured:
    """Run jobs one after another, each in a new process."""
    total = Measured()
    for name in names:
        began = time.perf_counter()
        command = [sys.executable, __file__, "--work", name, "--folder", str(folder)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD
        ) as process:
            assert process.stdout is not None
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name} failed")
        total.wall += time.perf_counter() - began
        total.cpu += usage.ru_utime + usage.ru_stime
        job, peak = map(float, output.split())
        total.job += job
        total.peak_mib = max(total.peak_mib, peak)
    return total


def make_trace(path: Path, rows: int) -> None:
    """A synthetic trace with the columns and the whole seconds of BurstGPT's first release."""
    import polars as pl

    from presurge.sources.synthetic import SyntheticConfig, synthesize

    full = path.with_name("synthetic.parquet")
    synthesize(SyntheticConfig(rows=rows, days=DAYS, seed=1), full)
    columns = ["Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"]
    pl.scan_parquet(full).select(pl.col("Timestamp").floor().cast(pl.Int64), *columns).sink_csv(path)
    full.unlink()


def best(folder: Path, repeats: int, *names: str) -> Measured:
    """The run with the least CPU time."""
    return min((measure(folder, *names) for _ in range(repeats)), key=lambda measured: measured.cpu)


def line(name: str, m: Measured, reference: Measured | None = None) -> str:
    text = f"{name:34}{m.cpu:8.2f}{m.job:8.2f}{m.wall:8.2f}{m.peak_mib:8.0f}"
    return text + (f"{reference.cpu / m.cpu:9.1f}x{reference.job / m.job:8.1f}x" if reference else "")


def compare(folder: Path, rows: int, repeats: int) -> None:
    import polars as pl

    make_trace(folder / "BurstGPT_1.csv", rows)
    print(f"{rows:,} requests, best of {repeats}; CPU and wall in seconds, peak in MiB\n")
    print(f"{'':34}{'CPU':>8}{'job':>8}{'wall':>8}{'peak':>8}{'CPU':>10}{'job':>9}")
    guide = None
    if importlib.util.find_spec("pandas"):
        guide = best(folder, repeats, "guide_dense", "guide_compress", "guide_split")
        print(line("guide's three steps, pandas", guide))
    minutes = best(folder, repeats, "presurge_minutes")
    print(line("presurge, minutes", minutes, guide))
    dense = best(folder, repeats, "presurge_dense")
    print(line("presurge, minutes and seconds", dense, guide))
    if guide is None:
        print("\npandas is not installed: nothing to compare with")
        return
    print(f"\nminutes: {verdict(guide.job / minutes.job, 20, minutes.peak_mib, 300)}")
    print(f"with seconds: {verdict(guide.job / dense.job, 4, dense.peak_mib, 500)}")
    name = "BurstGPT_1_compressed_60s.csv"
    theirs, ours = (pl.read_csv(folder / where / name) for where in (".", "minutes"))
    same = theirs.select(GUIDE_SUMS).cast(pl.Int64).equals(ours.select(GUIDE_SUMS))
    print(f"the minutes of both are {'the same' if same else 'DIFFERENT'}")


def verdict(ratio: float, wanted: float, peak: float, allowed: float) -> str:
    fast = "reached" if ratio >= wanted else "MISSED"
    small = "reached" if peak <= allowed else "MISSED"
    return f"1/{ratio:.1f} of the CPU (1/{wanted:g} {fast}), {peak:.0f} MiB ({allowed:g} {small})"


def scale(folder: Path, rows: int) -> None:
    print(f"{'requests':>14}{'CPU':>8}{'wall':>8}{'peak MiB':>10}{'CPU us a request':>18}")
    for count in (rows // 10, rows):
        make_trace(folder / "BurstGPT_1.csv", count)
        m = measure(folder, "presurge_minutes")
        manifest = json.loads((folder / "minutes" / "prepare.json").read_text())
        assert manifest["totals"]["requests"] == count
        print(f"{count:14,}{m.cpu:8.2f}{m.wall:8.2f}{m.peak_mib:10.0f}{m.cpu / count * 1e6:18.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="measure Presurge alone at so many requests, and at a tenth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    options = parser.parse_args()
    if options.work:
        work(options.work, options.folder)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.rows:
            scale(Path(folder), options.rows)
        else:
            compare(Path(folder), BURSTGPT_ROWS, options.repeats)


if __name__ == "__main__":
    main()
