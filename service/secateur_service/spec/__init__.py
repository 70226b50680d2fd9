"""The specification of a prune job, and its single validator."""

from secateur_service.spec.base import Part
from secateur_service.spec.calibration import DEFAULT_SEQUENCE_LENGTH, CalibrationSpec, GenerationSpec, LanguageWeight
from secateur_service.spec.limits import LanguageLimit, LimitsSpec
from secateur_service.spec.pruning import (
    ALLOCATIONS,
    DEFAULT_METHOD,
    DEFAULT_OUTLIER,
    DEFAULT_SPAN,
    ORDERS,
    TRAINED_PRESETS,
    AllocationSpec,
    LayerOverride,
    PruningSpec,
)
from secateur_service.spec.reconstruction import ReconstructionSpec
from secateur_service.spec.shrink import (
    BUDGET_AXES,
    BlocksSpec,
    BudgetAxis,
    BudgetSpec,
    FeedForwardSpec,
    KvHeadsSpec,
    ShrinkSpec,
    TokenWeight,
    VocabularySpec,
)
from secateur_service.spec.specification import (
    DEFAULT_TASK_LIMIT,
    SPEC_FORMAT,
    EvaluationSpec,
    ExecutionSpec,
    ModelSpec,
    OutputSpec,
    PruneSpec,
    parse_parts,
    parse_spec,
)

__all__ = [
    "ALLOCATIONS",
    "BUDGET_AXES",
    "DEFAULT_METHOD",
    "DEFAULT_OUTLIER",
    "DEFAULT_SEQUENCE_LENGTH",
    "DEFAULT_SPAN",
    "DEFAULT_TASK_LIMIT",
    "ORDERS",
    "SPEC_FORMAT",
    "TRAINED_PRESETS",
    "AllocationSpec",
    "BlocksSpec",
    "BudgetAxis",
    "BudgetSpec",
    "CalibrationSpec",
    "EvaluationSpec",
    "ExecutionSpec",
    "FeedForwardSpec",
    "GenerationSpec",
    "KvHeadsSpec",
    "LanguageLimit",
    "LanguageWeight",
    "LayerOverride",
    "LimitsSpec",
    "ModelSpec",
    "OutputSpec",
    "Part",
    "PruneSpec",
    "PruningSpec",
    "ReconstructionSpec",
    "ShrinkSpec",
    "TokenWeight",
    "VocabularySpec",
    "parse_parts",
    "parse_spec",
]
