"""Bytes held for backward at the sizes of Stable Diffusion, SDXL and SD 3, counted on meta tensors.

    python tests/benchmarks/held.py
    python tests/benchmarks/held.py --models sd14

No GPU and no memory is needed: on meta tensors every operation has sizes and no numbers. Held is
what autograd saves of a call, each storage once, without parameters and without the call's own
input; attention is counted as a GPU's kernels hold it (flash, or memory-efficient where heads are
too wide for that), not as a CPU's do. A call of the U-Net, or of SD 3's transformer, is of one
sample, of which guidance takes two a problem.

The peak is of docs/stable-diffusion.yaml: its steps, predictions and cutouts, ResNet-50. It is the
largest of two moments, with the networks' weights, and with what is made and dropped on the way:
the objective's (a segment of the chain is held; decoder and classifier run forward and backward for
one image), and the chain's backward (all of a segment is held but a step, whose backward runs).
What an allocator rounds up, and convolutions' workspaces, come on top.

Prints a table and, as its last line, JSON, all in 10^9 bytes:

unet_gb        held by a U-Net call, a sample, by model; `unet_plain_gb`: with diffusers' layers
decoder_gb     held by decoding an image, as the sampler does it; `decoder_plain_gb`: all at once,
               with diffusers' layers in float32
peak_gb        by batch, of Stable Diffusion 1.4
"""

import argparse
import json
import runpy
from functools import partial
from pathlib import Path

import timm
import torch
import yaml
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from whylens.diffusion.chain import segments
from whylens.diffusion.frozen import freeze_layers
from whylens.diffusion.random_pipelines import MODELS
from whylens.frozen import freeze_convolutions

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "docs" / "stable-diffusion.yaml"
PeakMemory = runpy.run_path(str(HERE.parent / "diffusion" / "peak_memory.py"))["PeakMemory"]
# Heads that flash attention takes at most, and the classifier's side in pixels.
WIDEST_HEAD, SIDE = 256, 224
# Side of the largest image that the sampler decodes in one piece.
LARGEST_DECODED = 512
BATCHES = (1, 2, 4, 8)


class GpuAttention(TorchFunctionMode):
    """Attention by the operators that a GPU takes."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        if query.shape[-1] <= WIDEST_HEAD and query.dtype != torch.float32:
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True
        )[0]


def kept(network, call, inputs, parts=()):
    """Storages that autograd saves of a call, each once, by the part of the network that runs.

    Parameters and inputs, the parts' too, are not counted; what runs in no part is None's.
    """
    found, running = {None: {}, **{part: {} for part in parts}}, [None]

    def key(tensor: Tensor):
        return StorageWeakRef(tensor.untyped_storage()).cdata

    known = {key(tensor) for tensor in (*network.parameters(), *network.buffers(), *inputs)}

    def keep(tensor: Tensor):
        if key(tensor) not in known:
            found[running[-1]][key(tensor)] = tensor.untyped_storage()
        return tensor

    def enter(part, given):
        known.add(key(given[0]))
        running.append(part)

    def leave(part, given, out):
        running.pop()

    hooks = [part.register_forward_pre_hook(enter) for part in parts]
    hooks += [part.register_forward_hook(leave) for part in parts]
    with GpuAttention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = call(*inputs)
    del out
    for hook in hooks:
        hook.remove()
    return found


def size_of(storages):
    return sum(storage.nbytes() for storage in storages.values())


def held(network, call, inputs):
    """Bytes that autograd saves of a call."""
    return size_of(kept(network, call, inputs)[None])


def held_by_decoder(vae, inputs):
    """Bytes that are alive for the backward of one image's decoder, as the sampler decodes it.

    Of a large image a block's are alive at a time, beside what goes into the others.
    """
    call = decoder_call(vae)
    if vae.config.sample_size <= LARGEST_DECODED:
        return held(vae, call, inputs)
    parts = [vae.decoder.mid_block, *vae.decoder.up_blocks]
    by_part = kept(vae, call, inputs, parts)
    largest = max(size_of(by_part[part]) for part in parts)
    vae.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False))
    return held(vae, call, inputs) + largest


def peak(call, inputs):
    """Bytes that live at once at most in a call and its backward."""
    with GpuAttention(), PeakMemory() as seen:
        out = call(*inputs)
        torch.autograd.grad(out, inputs, torch.empty_like(out))
    return seen.peak


def leaf(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, requires_grad=True)


def frozen(network, dtype=torch.bfloat16):
    return torch.nn.Module.to(network, dtype).eval().requires_grad_(False)


class Unet:
    """Calls of a U-Net by the number of samples."""

    def __init__(self, config):
        self.network, self.config = frozen(UNet2DConditionModel(**config)), config

    def inputs(self, samples):
        side, width = self.config["sample_size"], self.config["cross_attention_dim"]
        return leaf(samples, 4, side, side), leaf(samples, 77, width)

    def __call__(self, latents, text):
        added = None
        if self.config.get("addition_embed_type") == "text_time":
            ids = torch.empty(len(latents), 6, dtype=latents.dtype)
            added = {
                "text_embeds": torch.empty(len(latents), 1280, dtype=ids.dtype),
                "time_ids": ids,
            }
        time = torch.empty((), dtype=torch.int64)
        return self.network(latents, time, text, added_cond_kwargs=added).sample


class Transformer:
    """Calls of Stable Diffusion 3's transformer by the number of samples: as `Unet`."""

    def __init__(self, config):
        self.network, self.config = frozen(SD3Transformer2DModel(**config)), config

    def inputs(self, samples):
        side, width = self.config["sample_size"], self.network.config.joint_attention_dim
        # CLIP's 77 places, and the 256 of T5.
        return leaf(samples, 16, side, side), leaf(samples, 77 + 256, width)

    def __call__(self, latents, text):
        width = self.network.config.pooled_projection_dim
        pooled = torch.empty(len(latents), width, dtype=latents.dtype)
        return self.network(latents, text, pooled, torch.empty(len(latents))).sample


def decoder_call(network):
    return lambda latents: network.decode(latents).sample


def weights(*networks):
    return sum(p.numel() * p.element_size() for n in networks for p in n.parameters())


def count(name):
    """What a U-Net call and the decoder hold, with our layers and with diffusers' own."""
    config = MODELS[name]
    flow = "transformer" in config
    unet = Transformer(config["transformer"]) if flow else Unet(config["unet"])
    found = {"unet_plain": held(unet.network, unet, unet.inputs(1))}
    freeze_layers(unet.network)
    found["unet"] = held(unet.network, unet, unet.inputs(1))
    side, channels = unet.config["sample_size"], config["vae"]["latent_channels"]
    vae = frozen(AutoencoderKL(**config["vae"]), torch.float32)
    inputs = [leaf(1, channels, side, side, dtype=torch.float32)]
    found["decoder_plain"] = held(vae, decoder_call(vae), inputs)
    freeze_layers(frozen(vae))
    found["decoder"] = held_by_decoder(vae, [leaf(1, channels, side, side)])
    return found, unet, vae


def peaks(unet, vae, held_by_sample):
    """The most that lives at once with the shipped settings, by batch."""
    settings = yaml.safe_load(SHIPPED.read_text())["generate"]["guidance"]
    chain, views = settings["chain"], settings["views"]
    longest = max(end - start for start, end in segments(0, chain["steps"], chain.get("segment")))
    classifier = frozen(timm.create_model("resnet50"), torch.float32)
    freeze_convolutions(classifier)
    side = unet.config["sample_size"]

    def look(latents):
        images = vae.decode(latents).sample.float()
        cuts = F.adaptive_avg_pool2d(images, SIDE).repeat(views["cutouts"], 1, 1, 1)
        return classifier(cuts)

    objective = peak(look, [leaf(1, 4, side, side)])
    loaded = weights(unet.network, vae, classifier)
    found = {}
    for batch in BATCHES:
        step = 2 * batch * held_by_sample
        backward = (longest - 1) * step + peak(unet, unet.inputs(2 * batch))
        found[batch] = loaded + max(longest * step + objective, backward)
    return found


def main():
    """Count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = ["sd14", "sdxl", "sd3"]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    result = {}
    with torch.device("meta"):
        for name in parser.parse_args().models:
            found, unet, vae = count(name)
            for key, size in found.items():
                result.setdefault(f"{key}_gb", {})[name] = round(size / 1e9, 3)
            print(name, {key: f"{size / 1e9:.3f} GB" for key, size in found.items()}, flush=True)
            if name == "sd14":
                by_batch = peaks(unet, vae, found["unet"])
                result["peak_gb"] = {str(b): round(size / 1e9, 2) for b, size in by_batch.items()}
                print("peak by batch", result["peak_gb"], flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
