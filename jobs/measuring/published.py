"""The published table of Spurious ImageNet, and how its code shows images to classifiers.

Neuhaus et al., "Spurious Features Everywhere", ICCV 2023, extended table of the supplement. The
classifiers stand under the names that timm has for their weights today; those that aren't timm's,
under the name of the file that holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from whylens.images.eval_transform import EvalTransform


@dataclass(frozen=True)
class Published:
    """Accuracy in % (None for heads of ImageNet-21k) and spurious score in [0, 1]."""

    accuracy: float | None
    score: float


# Plain, and with SpuFix: accuracy and score of each.
_TABLE = """
l2_improved_3_ep 57.4 0.630 56.8 0.763
imagenet_l2_3_0 57.9 0.651 57.2 0.764
resnet50.a1_in1k 81.2 0.851 81.2 0.860
resnet101.a1h_in1k 82.8 0.748 82.8 0.795
resnext50_32x4d.a1h_in1k 82.0 0.783 82.0 0.808
resnext101_32x8d.tv_in1k 79.3 0.797 79.2 0.811
resnext101_64x4d.c1_in1k 83.2 0.779 83.2 0.786
tf_efficientnet_b5.ra_in1k 83.8 0.829 83.8 0.833
tf_efficientnet_b5.ap_in1k 84.3 0.828 84.2 0.832
tf_efficientnet_b6.aa_in1k 84.1 0.830 84.1 0.836
tf_efficientnet_b6.ap_in1k 84.8 0.831 84.8 0.838
tf_efficientnet_b7.ra_in1k 84.9 0.834 84.9 0.839
tf_efficientnet_b7.ap_in1k 85.1 0.826 85.1 0.831
tf_efficientnetv2_m.in1k 85.2 0.846 85.2 0.856
tf_efficientnetv2_l.in1k 85.7 0.851 85.7 0.860
convnext_base.fb_in1k 84.4 0.802 84.4 0.816
convnext_large.fb_in1k 84.8 0.803 84.8 0.819
convnextv2_base.fcmae_ft_in1k 85.5 0.848 85.5 0.856
convnextv2_large.fcmae_ft_in1k 86.1 0.845 86.1 0.858
convnextv2_huge.fcmae_ft_in1k 86.6 0.867 86.6 0.879
deit3_small_patch16_224.fb_in1k 81.4 0.851 81.4 0.859
deit3_large_patch16_384.fb_in1k 85.8 0.863 85.8 0.877
vit_base_patch16_384.augreg_in1k 81.1 0.850 81.1 0.859
volo_d5_512.sail_in1k 87.1 0.882 87.1 0.907
volo_d3_224.sail_in1k 85.4 0.863 85.3 0.890
tf_efficientnet_b5.ns_jft_in1k 86.1 0.924 86.1 0.924
tf_efficientnet_b6.ns_jft_in1k 86.5 0.875 86.5 0.880
tf_efficientnet_b7.ns_jft_in1k 86.8 0.907 86.9 0.912
tf_efficientnet_l2.ns_jft_in1k 88.4 0.914 88.3 0.917
resnext101_32x16d.fb_ssl_yfcc100m_ft_in1k 81.8 0.833 81.8 0.841
resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k 80.3 0.821 80.2 0.831
resnet50.fb_ssl_yfcc100m_ft_in1k 79.2 0.804 78.8 0.828
convnext_base.clip_laion2b_augreg_ft_in1k 86.2 0.859 86.2 0.865
convnext_large_mlp.clip_laion2b_augreg_ft_in1k 87.3 0.858 87.3 0.865
convnext_large_mlp.clip_laion2b_augreg_ft_in1k_384 87.8 0.879 87.9 0.884
vit_large_patch14_clip_336.laion2b_ft_in12k_in1k 88.2 0.912 88.2 0.914
eva_giant_patch14_336.clip_ft_in1k 89.5 0.911 89.4 0.915
eva_giant_patch14_560.m30m_ft_in22k_in1k 89.8 0.919 89.8 0.925
resnext101_32x16d.fb_swsl_ig1b_ft_in1k 83.3 0.872 83.3 0.875
resnext50_32x4d.fb_swsl_ig1b_ft_in1k 82.2 0.857 82.1 0.862
resnet50.fb_swsl_ig1b_ft_in1k 81.2 0.850 80.8 0.865
resnetv2_152x4_bit.goog_in21k_ft_in1k 84.9 0.895 84.9 0.900
resnetv2_50x3_bit.goog_in21k_ft_in1k 84.0 0.887 84.0 0.895
tf_efficientnetv2_m.in21k_ft_in1k 86.0 0.892 86.0 0.897
tf_efficientnetv2_l.in21k_ft_in1k 86.8 0.893 86.8 0.898
convnext_base.fb_in22k_ft_in1k 86.3 0.892 86.3 0.895
convnext_large.fb_in22k_ft_in1k 87.0 0.910 87.0 0.913
convnext_xlarge.fb_in22k_ft_in1k 87.3 0.908 87.3 0.913
convnextv2_base.fcmae_ft_in22k_in1k_384 87.6 0.907 87.6 0.911
convnextv2_large.fcmae_ft_in22k_in1k_384 88.2 0.905 88.2 0.907
convnextv2_huge.fcmae_ft_in22k_in1k_384 88.7 0.919 88.7 0.923
deit3_small_patch16_224.fb_in22k_ft_in1k 83.1 0.845 83.1 0.860
deit3_large_patch16_384.fb_in22k_ft_in1k 87.7 0.895 87.7 0.901
swin_base_patch4_window7_224.ms_in22k_ft_in1k 85.3 0.877 85.3 0.883
swin_large_patch4_window12_384.ms_in22k_ft_in1k 87.1 0.898 87.1 0.901
swinv2_large_window12to24_192to384.ms_in22k_ft_in1k 87.5 0.889 87.5 0.891
vit_base_patch16_224.orig_in21k_ft_in1k 81.8 0.881 81.7 0.889
vit_base_patch16_384.orig_in21k_ft_in1k 84.2 0.905 84.2 0.912
vit_large_patch16_224.augreg_in21k_ft_in1k 85.8 0.914 85.8 0.923
vit_base_patch16_384.augreg_in21k_ft_in1k 86.0 0.917 85.9 0.925
beit_base_patch16_224.in22k_ft_in22k_in1k 85.2 0.890 85.2 0.897
beit_large_patch16_512.in22k_ft_in22k_in1k 88.6 0.921 88.6 0.927
beitv2_large_patch16_224.in1k_ft_in22k_in1k 88.4 0.921 88.4 0.925
resnetv2_152x4_bit.goog_in21k - 0.908 - 0.908
resnetv2_50x3_bit.goog_in21k - 0.910 - 0.910
tf_efficientnetv2_m.in21k - 0.919 - 0.919
tf_efficientnetv2_l.in21k - 0.929 - 0.929
convnext_base.fb_in22k - 0.939 - 0.939
convnext_large.fb_in22k - 0.943 - 0.943
convnext_xlarge.fb_in22k - 0.945 - 0.945
swin_base_patch4_window7_224.ms_in22k - 0.808 - 0.808
swin_large_patch4_window12_384.ms_in22k - 0.820 - 0.820
vit_large_patch16_224.augreg_in21k - 0.931 - 0.931
vit_base_patch8_224.augreg_in21k - 0.931 - 0.931
beit_base_patch16_224.in22k_ft_in22k - 0.935 - 0.935
beit_large_patch16_224.in22k_ft_in22k - 0.940 - 0.940
beitv2_large_patch16_224.in1k_ft_in22k - 0.951 - 0.951
"""


def _rows() -> dict[str, tuple[Published, Published]]:
    rows = {}
    for line in _TABLE.split("\n")[1:-1]:
        name, *numbers = line.split()
        accuracy, score, fixed_accuracy, fixed_score = (
            None if number == "-" else float(number) for number in numbers
        )
        plain = Published(accuracy, score or 0.0)
        rows[name] = plain, Published(fixed_accuracy, fixed_score or 0.0)
    return rows


ROWS = _rows()


def published(classifier: str, base: str | None = None) -> Published | None:
    """What was published of a classifier by its name in whylens, or None.

    `base` is the classifier that was repaired, where this is its SpuFix version. A timm name needs
    its tag; a file counts by its name.
    """
    scheme, _, rest = (base or classifier).partition(":")
    path, _, query = rest.partition("?")
    known = path if scheme == "timm" else ""
    if scheme in ("robustness", "checkpoint"):
        known = PurePosixPath(path).stem
    elif scheme == "torchvision":
        known = PurePosixPath(query.partition("weights=")[2].partition("&")[0]).stem
    rows = ROWS.get(known)
    return None if rows is None else rows[base is not None]


def shown_as_published(size: int, side: str) -> EvalTransform:
    """How the published code shows images of a side, "validation" or "spurious", at `size` px.

    Bicubic for all classifiers: validation images resized to 256/224 of the size and cut, spurious
    images (squares) whole.
    """
    scale = int(256 / 224 * size) if side == "validation" else size
    return EvalTransform(size, scale, "shortest", "bicubic")
