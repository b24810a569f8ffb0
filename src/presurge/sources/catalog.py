"""Public traces by name: where they are published, how large they are, and under which terms.

A checksum or a size stands here only where it was established. Those of BurstGPT 1 and 2 are in the project's own git-lfs
pointers; those of the 2023 Azure conversations, ETTh1 and the taxis were computed from copies; these and the others are
recorded alike by users of the file (of burstgpt-3-without-fails by one only). Otherwise it is ``None``; a missing checksum is
recorded at the first download.
"""

import difflib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presurge.errors import ConfigError
from presurge.files import atomic_path
from presurge.progress import Progress, silent
from presurge.sources.download import Fetched, RemoteFile, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicTrace(RemoteFile):
    """A published trace or series.

    Attributes:
        name: What it is called here.
        title: What it holds.
        licence: Under which terms it is published.
        citation: What its authors ask to be cited.
        use: The command that reads it; ``{path}`` stands for the file.
    """

    name: str
    title: str
    licence: str
    citation: str
    use: str = "presurge prepare {path} --out data"

    def to_dict(self, cache: Path) -> dict[str, Any]:
        """As JSON values, with where it is or would be in the cache."""
        path = cache / self.file
        return {
            "name": self.name,
            "title": self.title,
            "file": self.file,
            "size": self.size,
            "sha256": self.sha256,
            "checksum": self.checksum_text,
            "licence": self.licence,
            "citation": self.citation,
            "url": self.url,
            "path": str(path),
            "cached": path.is_file(),
        }

    @property
    def checksum_text(self) -> str:
        """Its checksum in words."""
        return f"sha256 {self.sha256}" if self.sha256 else "recorded at first download"


def _burstgpt(name: str, file: str, title: str, size: int, sha256: str) -> PublicTrace:
    return PublicTrace(
        name=name,
        file=file,
        title=f"BurstGPT: {title}",
        url=f"https://github.com/HPMLL/BurstGPT/releases/download/v2.0/{file}",
        size=size,
        sha256=sha256,
        licence="CC BY 4.0",
        citation="Wang et al., BurstGPT: A Real-world Workload Dataset to Optimize LLM Serving Systems, arXiv:2401.17644",
    )


def _azure_2023(name: str, file: str, title: str, size: int, sha256: str) -> PublicTrace:
    commit = "790921015d50dd6aae7f7e47f39ba0e235ad6b08"
    return PublicTrace(
        name=name,
        file=file,
        title=f"Azure LLM inference 2023: {title}",
        url=f"https://raw.githubusercontent.com/Azure/AzurePublicDataset/{commit}/data/{file}",
        size=size,
        sha256=sha256,
        licence="CC BY 4.0",
        citation="Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024",
    )


def _azure_2024(name: str, file: str, title: str, size: int, sha256: str) -> PublicTrace:
    return PublicTrace(
        name=name,
        file=file,
        title=f"Azure LLM inference 2024: {title}",
        url=f"https://github.com/Azure/AzurePublicDataset/releases/download/dataset-llm-2024/{file}",
        size=size,
        sha256=sha256,
        licence="CC BY 4.0",
        citation="Stojkovic et al., DynamoLLM: Designing LLM Inference Clusters for Performance and Energy Efficiency, "
        "HPCA 2025",
    )


def _mooncake(name: str, file: str, title: str, size: int | None, sha256: str) -> PublicTrace:
    commit = "3cca71daccf2a7afb8fe3f0295358f70e3a69fdb"
    return PublicTrace(
        name=name,
        file=f"mooncake_{file}",
        title=f"Mooncake: {title}",
        url=f"https://raw.githubusercontent.com/kvcache-ai/Mooncake/{commit}/FAST25-release/traces/{file}",
        size=size,
        sha256=sha256,
        licence="Apache-2.0",
        citation="Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025",
    )


# fmt: off
CATALOG = (
    _burstgpt("burstgpt-1", "BurstGPT_1.csv", "months 1 and 2, 1.43 M requests to ChatGPT and GPT-4", 52_283_111,
              "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122"),
    _burstgpt("burstgpt-2", "BurstGPT_2.csv", "months 3 and 4, 3.86 M requests", 144_819_209,
              "44bf5942b03fca42c01a226a545ad3a750ec62688faecd67b6831c56a8928bf7"),
    _burstgpt("burstgpt-3", "BurstGPT_3.csv", "with session and elapsed time, 5.34 M requests", 231_682_327,
              "2299986a07388aa303ec2c41d1131e756db650a39ed6ef9dfe7cc3d7f9a43b8f"),
    _burstgpt("burstgpt-1-without-fails", "BurstGPT_without_fails_1.csv", "burstgpt-1 without failures", 51_429_517,
              "a4d068a7113ec0290e74063a1b3447dc6001a30e4298eb313581b71006dda1f4"),
    _burstgpt("burstgpt-2-without-fails", "BurstGPT_without_fails_2.csv", "burstgpt-2 without failures", 142_376_815,
              "56193aa9b2bb26128ded43d2d29a960df6bf5af062bcfc9b005f3fcaa4e6e501"),
    _burstgpt("burstgpt-3-without-fails", "BurstGPT_without_fails_3.csv", "burstgpt-3 without failures", 217_312_026,
              "3326259f9efb11845bc5ef85fa97e6f691050b0974621c91ef22acd566c43a40"),
    _azure_2023("azure-2023-conversation", "AzureLLMInferenceTrace_conv.csv", "conversation, 1 h, 19 k requests", 719_188,
                "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8"),
    _azure_2023("azure-2023-code", "AzureLLMInferenceTrace_code.csv", "code completion, 1 h, 8.8 k requests", 320_117,
                "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6"),
    _azure_2024("azure-2024-conversation", "AzureLLMInferenceTrace_conv_1week.csv", "conversation, a week, 27 M requests",
                1_135_195_393, "a0cc9b969a9bbf0fd811802cbf4323edd3a209ace791e3799ad4f9207f213941"),
    _azure_2024("azure-2024-code", "AzureLLMInferenceTrace_code_1week.csv", "code completion, a week, 17 M requests",
                691_989_454, "71de5c55cbc35f8f1ed0b6b7806b4cd1e9764b0058469725a6aac98023a1448f"),
    _mooncake("mooncake-conversation", "conversation_trace.jsonl", "conversation, 59 min, 12 k requests", 3_029_533,
              "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df"),
    _mooncake("mooncake-toolagent", "toolagent_trace.jsonl", "tools and agents, 59 min, 24 k requests", None,
              "48a2db1a13d3bc05e6330140c64f604ba366df20d3c9e128b5c35a01c1fa5f71"),
    PublicTrace(
        name="etth1",
        file="ETTh1.csv",
        title="ETTh1: load and oil temperature of a transformer, hourly, 2 years, 7 columns",
        url="https://raw.githubusercontent.com/zhouhaoyi/ETDataset/1d16c8f4f943005d613b5bc962e9eeb06058cf07/ETT-small/ETTh1.csv",
        size=2_589_657,
        sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        licence="CC BY-ND 4.0",
        citation="Zhou et al., Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting, AAAI 2021",
        use="presurge backtest {path} --time date --value HUFL,HULL,MUFL,MULL,LUFL,LULL,OT --context 336 --horizon 96",
    ),
    PublicTrace(
        name="nyc-taxi",
        file="nyc_taxi.csv",
        title="Taxi passengers in New York (Numenta NAB), half-hourly, 7 months",
        url="https://raw.githubusercontent.com/numenta/NAB/ea702d75cc2258d9d7dd35ca8e5e2539d71f3140/data/realKnownCause/"
        "nyc_taxi.csv",
        size=265_771,
        sha256="d8fa6f7f0734bf5c8be12c52a94e20a82664c397d9dec4449156bd453d32856d",
        licence="MIT",
        citation="Lavin & Ahmad, Evaluating Real-Time Anomaly Detection Algorithms, ICMLA 2015",
        use="presurge backtest {path} --time timestamp --value value --context 336 --horizon 3",
    ),
    PublicTrace(
        name="nasa-http",
        file="NASA_access_log_Jul95.gz",
        title="Access log of NASA's Kennedy Space Center, July 1995",
        url="https://ita.ee.lbl.gov/traces/NASA_access_log_Jul95.gz",
        size=20_676_672,
        sha256="199109ed0f273e095da6ccd5fc9dc4cd8bb58daa06d62135e62090fea9d27488",
        licence="not stated",
        citation="Arlitt & Williamson, Web Server Workload Characterization: The Search for Invariants, SIGMETRICS 1996",
        use="an access log: count its lines into a table first, as the guide to public data shows",
    ),
)
# fmt: on


def cache_directory() -> Path:
    """Where fetched files are kept: $PRESURGE_CACHE, else $XDG_CACHE_HOME/presurge, else ~/.cache/presurge."""
    if own := os.environ.get("PRESURGE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "presurge"


def find_trace(name: str) -> PublicTrace:
    """The published trace of that name; its file name will do, too.

    Raises:
        ConfigError: There is none; the hint gives the nearest names.
    """
    known = {alias.lower(): trace for trace in CATALOG for alias in (trace.name, trace.file)}
    if trace := known.get(name.lower()):
        return trace
    near = difflib.get_close_matches(name.lower(), [trace.name for trace in CATALOG], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"no public trace is called {name!r}", hint=f"{hint}List them: presurge data list")


def get_trace(
    name: str, *, cache: Path | None = None, out: Path | None = None, progress: Progress = silent
) -> Fetched:
    """Fetch a published trace into the cache, or use the one that is there, and copy it to ``out`` if given.

    Raises:
        ConfigError: No trace is called so.
        FetchError: It cannot be downloaded, or is not the published file.
        StorageError: The file system refused.
    """
    fetched = fetch(find_trace(name), cache or cache_directory(), progress=progress)
    if out is not None:
        with atomic_path(out) as temporary:
            shutil.copyfile(fetched.path, temporary)
    return fetched
