from itertools import combinations
from math import dist

from mlla_seg.data.formats.classes import class_colour
from mlla_seg.planning.colours import APART, USUAL, colours_of


def test_land_cover_has_the_colours_of_maps():
    background, forest, water, road = colours_of(["background", "Forests", "open_water", "road 2"])
    assert background == (0, 0, 0)
    assert max(forest) == forest[1]
    assert max(water) == water[2]
    assert "road" in USUAL[road]
    assert "grass" in USUAL[colours_of(["background", "grass"])[1]]


def test_without_a_background_no_class_is_black():
    built, other = colours_of(["built-up", "class_2"])
    assert "built" in USUAL[built]
    assert max(other) > 200
    assert colours_of(["liver", "kidney"]) == [class_colour(1), class_colour(2)]


def test_other_names_have_the_hues_of_their_places():
    names = ["background", "liver", "kidney", "class_7"]
    assert colours_of(names) == [class_colour(k) for k in range(4)]


def test_classes_of_one_word_and_hues_beside_usual_colours_differ():
    names = ["background", "river", "lake", "building", *(f"class_{k}" for k in range(4, 12)), "tree"]
    found = colours_of(names)
    assert len(set(found)) == len(names)
    usual = [found[names.index(name)] for name in ("river", "building", "tree")]
    assert set(usual) < set(USUAL)
    others = [colour for colour in found if colour not in usual]
    assert min(dist(colour, other) for colour in others for other in usual) >= APART
    assert min(dist(one, two) for one, two in combinations(found, 2)) > 0
