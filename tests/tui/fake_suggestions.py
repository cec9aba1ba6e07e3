"""Suggestions that depend on no catalogue, no machine and no formula."""

from dataclasses import dataclass, field
from pathlib import Path

from localllm.core.hardware import HardwareInfo
from localllm.core.recommend import Candidate, FitPlan, Verdict
from localllm.core.sizing.load import LoadSettings
from localllm.core.sizing.placement import DeviceShare, Placement
from localllm.core.speed import Estimate
from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_plan import read_spec
from localllm.runtime.suggest import SuggestionPreferences, Suggestions

GIB = 2**30
MODELS = (
    ("quince-30b-a3b", "Q4_K_M", 8.7, 12.0),
    ("deep-medlar-r1-distill-llama-8b", "IQ4_XS", 5.2, 7.4),
    ("sloe-4b", "Q6_K", 3.9, 9.1),
    ("damson-1.7b", "Q8_0", 2.4, 21.0),
    ("rowan-0.6b", "Q8_0", 0.9, 48.0),
)


def fake_plans(model_file: Path) -> tuple[FitPlan, ...]:
    """Five plans; the header of `model_file` stands for all of theirs."""
    return tuple(_plan(model_file, *each) for each in MODELS)


def _plan(model_file: Path, model: str, quant: str, need_gib: float, likely: float) -> FitPlan:
    spec = read_spec(model_file)
    need = int(need_gib * GIB)
    share = DeviceShare(
        name="CPU",
        weights_bytes=need,
        kv_bytes=0,
        compute_bytes=0,
        overhead_bytes=0,
        free_bytes=10 * GIB,
        fits=True,
    )
    return FitPlan(
        candidate=Candidate(
            model=model,
            quant=quant,
            file=f"orchard/{model}-GGUF:{quant}",
            size_bytes=need * 9 // 10,
            parameters=spec.parameters,
            active_parameters=spec.active_parameters,
            architecture=spec.architecture,
            released=None,
            installed=False,
            spec=lambda: spec,
        ),
        spec=spec,
        settings=LoadSettings(),
        placement=Placement(gpu_layers=0, cpu_moe=0, devices=(share,), layout=()),
        decode=Estimate(low=likely * 0.625, likely=likely, high=likely * 1.5),
        ttft=Estimate(low=0.5, likely=1.0, high=2.0),
        verdict=Verdict.GOOD,
        reasons=(
            f"Fits with {10 - need_gib:.1f} GiB to spare.",
            f"About {likely:.1f} tok/s: {likely / 6:.1f} times reading speed.",
            f"{quant} changes perplexity by +1.6 % (published).",
        ),
    )


@dataclass
class FakeSuggestions:
    """Suggestions that a test controls; `calls` are the installed models of each call,
    `preferences` what was wanted."""

    plans: tuple[FitPlan, ...] = ()
    error: LocalLLMError | None = None
    calls: list[tuple[InstalledModel, ...]] = field(default_factory=list)
    preferences: list[SuggestionPreferences | None] = field(default_factory=list)

    def __call__(
        self,
        hardware: HardwareInfo,
        models: tuple[InstalledModel, ...],
        preferences: SuggestionPreferences | None,
    ) -> Suggestions:
        self.calls.append(models)
        self.preferences.append(preferences)
        if self.error is not None:
            raise self.error
        return Suggestions(
            plans=self.plans,
            licenses={plan.candidate.model: "apache-2.0" for plan in self.plans},
            compared=len(self.plans),
        )
