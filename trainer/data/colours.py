"""Every kind of pixel, brought to 8-bit sRGB by a stated rule."""

from __future__ import annotations

import io
from typing import Any, Literal, cast

import numpy as np
from PIL import Image, ImageChops, ImageCms

from trainer.data.findings import ImageProblem

WHITE = "#ffffff"
_FAINT = 16  # of 255: less alpha than that is not seen

_GREY_MODES = ("1", "L", "LA", "La")
_PROFILED_MODES = ("RGB", "L", "CMYK")


def to_srgb(image: Image.Image, background: str) -> Image.Image:
    """Convert a decoded picture to mode RGB.

    - 16-bit grey is divided by 257 and rounded, so that 65535 becomes 255 (Pillow's own convert
      clips everything above 255 to white); 16-bit colour keeps its upper 8 bits.
    - Palettes, grey and black-and-white take the colours that they stand for.
    - An embedded ICC profile that fits the kind of pixels is converted to sRGB (relative
      colorimetric, black point compensation); one that does not fit, or is damaged, is ignored,
      as viewers do.
    - CMYK without a profile is R = (255 - C)(255 - K) / 255, and so on. LAB is converted through
      its D50 white.
    - Alpha, transparent colours and palettes with transparency: the colour is composited on the
      background, c a + b (1 - a). What was hidden stays hidden.

    Args:
        background: "#rrggbb", the colour below transparent parts.

    Raises:
        ImageProblem: 32 bits for a single value, where no number is known to be white.
    """
    profile = image.info.get("icc_profile")
    colour, alpha = split_alpha(image)
    rgb = _convert_colour(colour, profile)
    if alpha is None:
        return rgb
    canvas = Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colour in 8 bits a channel, and the alpha (mode L) if there is any.

    Raises `ImageProblem` as `to_srgb`.
    """
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        raise ImageProblem(
            "It stores 32 bits for each value, and which value is white is not known.",
            "Export it with 8 or 16 bits a channel.",
        )
    if not image.has_transparency_data:
        return image, None
    if image.mode in _GREY_MODES:
        grey = image.convert("LA")
        return grey.getchannel("L"), grey.getchannel("A")
    whole = image.convert("RGBA")
    return whole.convert("RGB"), whole.getchannel("A")


def without_border(image: Image.Image) -> Image.Image:
    """A picture of mode RGB without the plain border that all its corners show."""
    corners = [image.getpixel((x, y)) for x in (0, image.width - 1) for y in (0, image.height - 1)]
    plain = Image.new("RGB", image.size, cast("tuple[int, int, int]", corners[0]))
    difference = np.asarray(ImageChops.difference(image, plain).convert("L"))
    unlike = Image.fromarray(np.where(difference > 16, 255, 0).astype(np.uint8))
    alike = len({unlike.getpixel((x, y)) for x in (0, -1) for y in (0, -1)}) == 1
    box = unlike.getbbox() if alike else None
    return image.crop(box) if box else image


def visible_range(image: Image.Image) -> tuple[int, ...] | None:
    """The range of colours that can be seen: see `trainer.data.images.ImageFacts.ink`."""
    _, alpha = split_alpha(image)
    if alpha is None:
        return None
    seen = np.asarray(alpha)
    if seen.min() == 255:
        return None
    if seen.max() < _FAINT:
        return ()
    colours = np.asarray(to_srgb(image, WHITE), dtype=np.float32)
    # What was composited on white, without the white.
    share = seen[..., None].astype(np.float32) / 255
    visible = ((colours - 255 * (1 - share)) / np.maximum(share, 1 / 255))[seen >= _FAINT]
    ends: np.ndarray = np.quantile(visible.clip(0, 255), np.array([0.02, 0.98]), axis=0)
    return tuple(round(value) for value in ends.ravel().tolist())


def _from_16_bit(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(image)
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey, None
    return grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))


def _convert_colour(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode == "LAB":
        return _transform(image, _built_in("LAB"))
    if image.mode not in _PROFILED_MODES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    if profile:
        try:
            return _transform(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # damaged, or of another kind of pixels: these count as sRGB
    return image.convert("RGB")


def _built_in(space: Literal["LAB", "sRGB"]) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(cast("Any", ImageCms.createProfile(space)))


def _transform(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        source,
        _built_in("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # None only when it works in place
    return converted
