"""The entries of the catalogue of findings; `codes` is how everybody reads them."""

from __future__ import annotations

from dataclasses import dataclass

from normfold.statistics.schema import Severity

_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO


@dataclass(frozen=True, slots=True)
class CheckRule:
    """One kind of finding.

    Args:
        code: letter and number.
        name: for machines that want words, `never-updated`.
        severity: the usual one; a finding may carry a milder one where the page says so.
        title: what is the matter, a few words.
        page: what it means and how it comes about.
        file, data, reference: how it shows from the file alone, with data, with a checkpoint or baseline; "" if it does not.
        fix: what to do.
    """

    code: str
    name: str
    severity: Severity
    title: str
    page: str
    file: str
    data: str
    reference: str
    fix: str


TABLE = (
    # --- mode -----------------------------------------------------------------------------------------------------------
    CheckRule(
        "M01", "training-mode", _E, "BatchNormalization in training mode",
        "The node normalises with the statistics of the batch that it is given, so the answer for a sample depends "
        "on what else is in the batch. Nearly always the model was exported before it was put into evaluation mode, "
        "or its layers do not track statistics. A few networks want it; then suppress the finding and say so.",
        "is_test = 0 or absent before opset 7, more than one output in opsets 7 to 13, training_mode = 1 later; "
        "unused outputs count. M02 and M03 are tried first.",
        "the batch-invariance probe fails",
        "no running statistics in the checkpoint",
        "Export again with model.eval(); if the stored statistics were never filled, estimate them on data first "
        "(normfold recalibrate).",
    ),
    CheckRule(
        "M02", "weight-standardisation", _I, "BatchNormalization of a weight",
        "Weight standardisation: what is normalised is a weight, so statistics of the 'batch' are statistics of the "
        "weight and the same at every run.",
        "training form, and no path leads from a graph input to X",
        "",
        "",
        "Nothing has to be done; the result can be stored as a constant weight.",
    ),
    CheckRule(
        "M03", "instance-norm-idiom", _I, "InstanceNormalization written as BatchNormalization",
        "A Reshape to [1, N·C, …] in front of a training BatchNormalization and one back behind it compute an "
        "InstanceNormalization: samples do not mix.",
        "the pair of Reshapes; a warning where the leading 1 cannot be shown",
        "one sample alone and in a batch agree",
        "",
        "Nothing has to be done; an InstanceNormalization would be faster and clearer.",
    ),
    CheckRule(
        "M04", "batch-statistics", _W, "statistics over the batch in plain operators",
        "A mean or variance over the batch axis is subtracted from, or divides, what depends on an input: a "
        "BatchNormalization in training mode that was exported as single operators.",
        "a reduction over axis 0 of an input-dependent tensor that feeds a Sub or Div",
        "the batch-invariance probe fails",
        "",
        "Export again with model.eval(), or make sure that the model is run with the batches that it was meant for.",
    ),
    CheckRule(
        "M05", "random", _E, "dropout or sampling left on",
        "The model draws random numbers while it runs, so the same input gives different answers.",
        "Dropout with training_mode = True and ratio > 0, Dropout with is_test = 0 before opset 7, Bernoulli and the "
        "Random operators; a warning where a generator stands alone, because a generative model may want it",
        "the determinism probe fails: same session, same input, two answers",
        "",
        "Export again with model.eval(); a model that samples on purpose gets a suppression.",
    ),
    # --- stored statistics ----------------------------------------------------------------------------------------------
    CheckRule(
        "S01", "never-updated", _E, "statistics were never updated",
        "Mean 0 and variance 1 in every channel are what a framework starts with. The model was exported without "
        "ever having been trained with this layer active, or the statistics were not loaded. Layers converted from a "
        "plain scale and shift look the same; the finding is a warning where gamma and beta are defaults too, "
        "because then nothing tells them apart.",
        "mean = 0 and variance = 1 exactly, in every channel",
        "J is large in every layer",
        "num_batches_tracked = 0",
        "Load the right checkpoint and export again, or estimate the statistics on data (normfold recalibrate).",
    ),
    CheckRule(
        "S02", "not-finite", _E, "statistics are not finite",
        "A mean, variance, gamma or beta is NaN or infinite; everything behind the channel is lost.",
        "a value is not finite",
        "",
        "the checkpoint says the same",
        "Estimate the statistics again (normfold recalibrate), and look for the diverged step in training.",
    ),
    CheckRule(
        "S03", "negative-variance", _E, "negative variance",
        "A variance cannot be negative. Below -epsilon the square root gives NaN; between -epsilon and 0 the scale "
        "explodes. It comes from epsilon having been subtracted by a converter, or from a variance computed as E[x²] "
        "− E[x]² in low precision.",
        "v < 0",
        "",
        "compare with the source",
        "Convert again from the source; clamp to 0 only if that is shown to be harmless.",
    ),
    CheckRule(
        "S04", "dead-channel", _W, "dead or exploding channels",
        "The variance is so small that the channel is constant, or was when the statistics were taken. Its scale "
        "|γ|/√(v+ε) then amplifies whatever it gets. Info where gamma is about 0, because the channel does not "
        "matter then.",
        "|γ|/√(v+ε) > 100, or v < 0.1·ε",
        "v̂ about 0: truly dead; v̂ much larger than v: stale",
        "",
        "If the channel is alive on your data, estimate the statistics again (normfold recalibrate); else it can be "
        "pruned.",
    ),
    CheckRule(
        "S05", "half-range", _W, "statistics do not fit into float16",
        "In a conversion to float16 the variance overflows, or becomes 0 where epsilon is 0, or the folded scale "
        "leaves the range.",
        "v > 65504, v < 6e-8 with epsilon = 0, or a folded weight outside of float16; info in a model of float32",
        "",
        "",
        "Fold in float32 (normfold optimize) before converting, or keep the normalisation in float32.",
    ),
    CheckRule(
        "S06", "epsilon", _W, "unusual epsilon",
        "Epsilon is 0, differs between the layers of one model, is none of the values that frameworks use, or is "
        "what most of the variance consists of. A wrong epsilon scales every channel by √((v+ε₁)/(v+ε₂)).",
        "the attribute, and the variances",
        "effect on the output",
        "the epsilon of the module",
        "Compare with the training code: Keras uses 1e-3, PyTorch 1e-5; export again if it differs.",
    ),
    CheckRule(
        "S07", "partly-updated", _W, "statistics were partly updated",
        "Either the mean or the variance still is what a framework starts with, the other is not.",
        "mean = 0 in every channel and the variance is not 1, or the variance 1 and the mean not 0",
        "",
        "",
        "Export again, or estimate the statistics on data (normfold recalibrate).",
    ),
    CheckRule(
        "S08", "shared", _W, "one set of statistics at several places",
        "Several layers read the same stored mean: one head over several pyramid levels, say. One mean and variance "
        "cannot describe inputs that differ.",
        "a mean that is not the default is read by two or more BatchNormalizations",
        "moments differ between the places",
        "num_batches_tracked is a multiple of the others",
        "Give every place statistics of its own (normfold recalibrate on data).",
    ),
    CheckRule(
        "S09", "stale", _W, "statistics do not belong to the weights",
        "The weights changed after the statistics were taken: weight averaging, exponential moving averages, "
        "pruning, quantisation.",
        "the data-free predictor explains nothing although the scale is right",
        "small J everywhere without a pattern",
        "keys of averaged weights; other counts of batches",
        "Estimate the statistics again with the final weights (normfold recalibrate).",
    ),
    CheckRule(
        "S10", "under-trained", _W, "moving averages have not converged",
        "A moving average starts at 0 and 1 and needs 44 batches at p = 0.1, 459 at 0.01, 4603 at 0.001 until 1 % of "
        "that is left.",
        "the data-free predictor finds one common slope outside of its limits",
        "one factor explains all layers",
        "the number of batches tracked is below ln 0.01 / ln(1−p)",
        "Train for longer or with a larger momentum, or estimate the statistics on data (normfold recalibrate).",
    ),
    CheckRule(
        "S11", "momentum", _W, "momentum convention looks swapped",
        "ONNX and Keras give the weight of the old value (0.9), PyTorch that of the new one (0.1). Swapped, the "
        "statistics are those of the last batch.",
        "momentum < 0.5 in the file: info, because exporters have written both",
        "noise of one batch in every channel, no trend",
        "momentum of the module",
        "Estimate the statistics on data (normfold recalibrate), and correct the momentum in training.",
    ),
    CheckRule(
        "S12", "variance-convention", _I, "biased and unbiased variance mixed up",
        "Frameworks store n/(n−1)·v or v. The difference matters for few values per batch.",
        "",
        "log(v/v̂) is the same in every channel and equals ln(n/(n−1))",
        "",
        "Ignore it below 1 %.",
    ),
    CheckRule(
        "S13", "wrong-layer", _W, "statistics of another layer",
        "The statistics were loaded into the wrong layer, or their channels were permuted.",
        "the data-free predictor explains all layers but this; or two layers hold the same vectors",
        "J is large in isolated layers, with batch statistics in front too",
        "another layer of the checkpoint fits",
        "Restore them from the checkpoint (check --checkpoint names the layer).",
    ),
    CheckRule(
        "S14", "small-batch", _W, "statistics of small batches",
        "Each update saw too few independent values, or devices did not synchronise.",
        "",
        "moderate J, worst where maps are small",
        "",
        "Estimate the statistics on data (normfold recalibrate).",
    ),
    CheckRule(
        "S15", "frozen-part", _W, "a part of the model has other statistics than the rest",
        "A frozen backbone saw other data than the head, or a frozen part was set back to training.",
        "",
        "J only in the backbone, or only in the head",
        "",
        "Estimate the statistics of that part on data (normfold recalibrate).",
    ),
    CheckRule(
        "S16", "not-constant", _W, "statistics are computed, or can be overridden",
        "A parameter is a graph input, or computed while the model runs: it is no stored statistic, and nothing can "
        "be folded.",
        "a parameter is a graph input too, or is not a constant",
        "",
        "",
        "Export without initializers among the inputs, or decide with --initializers freeze; computed statistics are "
        "a norm of another kind.",
    ),
    # --- norms without stored statistics --------------------------------------------------------------------------------
    CheckRule(
        "N01", "no-statistics", _I, "no statistics in this file",
        "There is no BatchNormalization: it was folded into the weights at export, or there never was one. Whether "
        "the statistics fit cannot be told from this file, which is not the same as being healthy.",
        "convolutions or matrix products, and no norm",
        "only determinism, batch invariance and collapse can be checked",
        "",
        "Check the model before it is folded, or give a manifest, a checkpoint, or a baseline (normfold stats "
        "record).",
    ),
    CheckRule(
        "N02", "mixed-epsilon", _W, "stateless norms with different epsilon",
        "Norms of one kind have different epsilon values. A network is trained with one; a converter mixed them up.",
        "the attribute",
        "",
        "",
        "Compare with the training code and export again if it differs.",
    ),
    CheckRule(
        "N03", "constant-row", _W, "a constant row divides by zero",
        "Epsilon is 0 or rounds to 0 in the type of the tensor, so a row of equal values (padding, a blank image) "
        "gives NaN.",
        "epsilon = 0, or below the smallest number of float16 in a float16 norm",
        "",
        "",
        "Set epsilon to 1e-5 (float16: at least 1e-7), or keep the norm in float32.",
    ),
    # --- data and outcome -----------------------------------------------------------------------------------------------
    CheckRule(
        "D01", "preprocessing", _E, "the input is prepared differently than in training",
        "Scale, mean and standard deviation, value range or channel order of the input do not fit the first layers.",
        "",
        "a transform of the input makes the first layers fit",
        "",
        "Apply the transform that the report names before the model.",
    ),
    CheckRule(
        "D02", "domain-shift", _W, "the data comes from another domain",
        "The statistics are right for the training data and wrong for this data.",
        "",
        "J grows smoothly with depth and no transform of the input explains it; the first layer alone does not fit, and its "
        "means follow from a mean of the input; or the samples do not differ",
        "",
        "Check that this is the data that the model is deployed on; then recalibrate with a held-out gate.",
    ),
    CheckRule(
        "D03", "not-shuffled", _W, "the data is not shuffled",
        "Batches differ more than chance allows: samples are grouped. Batch figures are then not those of the "
        "population.",
        "",
        "R = B·Var(batch means)/Var(sample means) is far above 1",
        "",
        "Shuffle the data, or give --group-key.",
    ),
    CheckRule(
        "C01", "collapse", _E, "the same answer for every input",
        "With the stored statistics the model hardly distinguishes inputs; with those of the batch it does.",
        "",
        "mutual information of input and answer: I_eval < 0.3·I_batch",
        "",
        "Repair the root cause that is listed first.",
    ),
    CheckRule(
        "X01", "folded-with-others", _E, "folded with other statistics than the source",
        "The weights in the file are not those that the source gives when it is folded with its own statistics and "
        "epsilon.",
        "",
        "",
        "W·γ/√(v+ε), computed from the source, differs from the file",
        "Fold again from the source (normfold optimize).",
    ),
)  # fmt: skip
