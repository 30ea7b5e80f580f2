"""One colour for each expert, the same in every picture: the hue names the expert group, the lightness the expert.

The hues are those of Okabe and Ito, which people with any common colour blindness can tell apart. Vision is warm,
inter-modality blue, text green; further groups get what is left.
"""

from __future__ import annotations

from moiety.groups import ExpertGroups

HUES: dict[str, tuple[str, ...]] = {
    "vision": ("#D55E00", "#E69F00", "#8C3D00", "#F5C48A"),
    "inter": ("#0072B2", "#56B4E9", "#003A5C", "#B3DDF5"),
    "text": ("#009E73", "#7FD1B9", "#00513B", "#C5EBDF"),
}
SPARE = ("#CC79A7", "#F0E442", "#7B3F66", "#8F8700", "#E8C4D9", "#6B6B6B")
NEUTRAL = "#DDDDDD"
# One group holds all experts (vanilla): distinct hues are easier to read than shades of one hue.
FLAT = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#6B6B6B")


def colours_of(groups: ExpertGroups) -> tuple[str, ...]:
    """A hex colour for every expert, in bank order.

    Example:
        >>> from moiety.groups import ExpertGroup
        >>> both = ("vision", "text")
        >>> table = ExpertGroups((ExpertGroup("vision", 1, both[:1]), ExpertGroup("inter", 2, both),
        ...                       ExpertGroup("text", 1, both[1:])), {0: "text", 1: "vision"})
        >>> colours_of(table)
        ('#D55E00', '#0072B2', '#56B4E9', '#009E73')
    """
    filled = [group for group in groups.groups if group.count]
    if len(filled) == 1:
        return spread(FLAT, filled[0].count)
    spare = list(SPARE)
    colours: list[str] = []
    for group in filled:
        base = HUES.get(group.name)
        if base is None:
            base = (spare.pop(0), spare.pop(0)) if len(spare) > 1 else (NEUTRAL, "#444444")
        colours += spread(base, group.count)
    return tuple(colours)


def spread(base: tuple[str, ...], count: int) -> tuple[str, ...]:
    """`count` colours: the given ones if they suffice, else a ramp from the darkest to the lightest of them."""
    if count <= len(base):
        return base[:count]
    ordered = sorted((rgb(colour) for colour in base), key=sum)
    ramp = []
    for index in range(count):
        place = index * (len(ordered) - 1) / (count - 1)
        low = min(int(place), len(ordered) - 2)
        share = place - low
        mixed = [round(255 * (a + share * (b - a))) for a, b in zip(ordered[low], ordered[low + 1], strict=True)]
        ramp.append("#{:02X}{:02X}{:02X}".format(*mixed))
    return tuple(ramp)


def rgb(colour: str) -> tuple[float, float, float]:
    """Red, green, blue in 0..1 of a hex colour.

    Example:
        >>> rgb("#FF0000")
        (1.0, 0.0, 0.0)
    """
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


def is_dark(colour: str) -> bool:
    """Whether white text reads better on `colour` than black text (relative luminance, WCAG weights)."""
    red, green, blue = rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45


def label_of(groups: ExpertGroups, expert: int) -> str:
    """Label of an expert in legends: its index and its group."""
    return f"{expert} {groups.group_of_expert(expert).name}"
