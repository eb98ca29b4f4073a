"""The small files beside the weights: configs in the layout's own form."""

from __future__ import annotations

from dataclasses import asdict, replace

from llamatools.checkpoint import Checkpoint
from llamatools.dtypes import DType
from llamatools.family.registry import Generation
from llamatools.jsonio import dump_json
from llamatools.layouts import hf_config, meta_config
from llamatools.layouts.hf import HF
from llamatools.plan.carry import Carried
from llamatools.spec import ModelSpec

Documents = dict[str, bytes]


def hf_documents(source: Checkpoint, dtype: DType, carried: Carried) -> Documents:
    """config.json and generation_config.json.

    From HF, the user's own config with what the tensors contradict put right. From Meta, a new
    one: what params.json does not state (context, token ids) is the generation's.
    """
    if source.layout is HF:
        config = hf_config.update_config(source.config, source.spec, dtype)
        return _with_ids(source, config, carried)
    generation = source.identity.generation
    bos, eos = token_ids(generation, source.spec, instruct=carried.instruct)
    if carried.roles is not None and (bos is None or carried.given):
        bos, eos = carried.roles.bos, carried.roles.eos
    spec = replace(source.spec, context=source.spec.context or source.identity.context)
    documents = {hf_config.NAME: dump_json(hf_config.write_config(spec, dtype, bos, eos))}
    if hf_config.GENERATION_NAME not in source.folder.names:  # the user's own goes along
        generation_config = hf_config.write_generation_config(bos, eos)
        documents[hf_config.GENERATION_NAME] = dump_json(generation_config)
    return documents


def _with_ids(source: Checkpoint, config: dict[str, object], carried: Carried) -> Documents:
    """The user's own configs, with the ids of another tokenizer where it was given one."""
    if not carried.given or carried.roles is None:
        return {hf_config.NAME: dump_json(config)}
    ids = {f"{role}_token_id": i for role, i in asdict(carried.roles).items() if role != "unk"}
    known = hf_config.GENERATION_NAME in source.folder.names
    generation = source.folder.json(hf_config.GENERATION_NAME) if known else {}
    return {
        hf_config.NAME: dump_json({**config, **ids}),
        hf_config.GENERATION_NAME: dump_json({**generation, **ids}),
    }


def token_ids(
    generation: Generation, spec: ModelSpec, *, instruct: bool
) -> tuple[int | None, int | list[int] | None]:
    """(bos, eos) of a generation, or (None, None) where the vocabulary is too small for them."""
    ends = generation.instruct_eos if instruct else (generation.eos,)
    if max(generation.bos, *ends) >= spec.vocab_size:
        return None, None
    return generation.bos, ends[0] if len(ends) == 1 else list(ends)


def meta_documents(source: Checkpoint, shards: int) -> Documents:
    """params.json. From Meta, the user's own with what the tensors contradict put right."""
    spec, official = source.spec, source.identity.official
    pair = (
        (official.multiple_of, official.ffn_dim_multiplier)
        if official
        else meta_config.ffn_pair(spec.dim, spec.ffn_dim)
    )
    params = meta_config.write_params(spec, shards, pair, same_head=source.same_head)
    if source.layout is not HF:
        params = meta_config.update_params(source.config, source.claims, params, spec)
    return {meta_config.NAME: dump_json(params)}


def unchanged_documents(source: Checkpoint, dtype: DType, carried: Carried) -> Documents:
    """The source's own config, for a change of container."""
    if source.layout is HF:
        return hf_documents(source, dtype, carried)
    return meta_documents(source, 1)
