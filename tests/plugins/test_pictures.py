"""Masks and boxes drawn over images: the values of pixels, edges, nothing to draw, what does not fit."""

import numpy as np
import pytest
from helpers import refused

from ppreplk.plugins.pictures import Detections, class_palette, draw_detections, draw_mask

GREY = 100


def image(height=60, width=80):
    return np.full((height, width, 3), GREY, np.uint8)


def one_box(box, score=0.9, masks=None, class_=1):
    return Detections(np.array([box], float), np.array([class_]), np.array([score]), masks)


def test_every_class_has_a_colour_of_its_own_whatever_their_number():
    palette = class_palette(256)
    assert palette.dtype == np.uint8 and palette.shape == (256, 3)
    assert len({tuple(colour) for colour in palette}) == 256
    assert (class_palette(19) == palette[:19]).all() and (class_palette(300)[256:] == palette[:44]).all()
    distances = np.linalg.norm(palette[:20, None].astype(float) - palette[None, :20], axis=-1)
    assert distances[~np.eye(20, dtype=bool)].min() > 80
    assert np.linalg.norm(palette[:20].astype(float), axis=1).min() > 80, "none is nearly black"


def test_a_mask_is_blended_and_what_is_ignored_stays():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:20, 30:40], mask[0, 0] = 7, 255
    palette = class_palette(8)
    drawn = np.asarray(draw_mask(image(), mask, legend=False))
    assert drawn.shape == (60, 80, 3)
    assert (drawn[0, 0] == GREY).all()
    assert (drawn[10:20, 30:40] == np.round((GREY + palette[7].astype(float)) / 2)).all()
    assert (drawn[9, 30:40] == np.round((GREY + palette[0].astype(float)) / 2)).all()
    assert (np.asarray(draw_mask(image(), mask, opacity=1.0, legend=False))[15, 35] == palette[7]).all()
    own = np.tile(np.array([[1, 2, 3]], np.uint8), (8, 1))
    assert (np.asarray(draw_mask(image(), mask, palette=own, opacity=1.0, legend=False))[15, 35] == [1, 2, 3]).all()


def test_the_legend_has_the_classes_of_the_mask_the_largest_first():
    mask = np.zeros((60, 80), np.int64)
    mask[10:20, 30:40] = 2
    picture = draw_mask(image(), mask, names=["road", "car", "道路"])
    pixels = np.asarray(picture)
    assert picture.height == 60 and picture.width > 80 + 20
    assert (pixels[:, :80] == np.asarray(draw_mask(image(), mask, legend=False))).all()
    legend = pixels[:, 80:].reshape(-1, 3)
    first = [np.flatnonzero((legend == colour).all(axis=1)) for colour in class_palette(3)]
    assert len(first[0]) > 30 and len(first[2]) > 30 and not len(first[1]), "class 1 is not there"
    assert first[0][0] < first[2][0]
    low = draw_mask(image(8, 80), np.arange(640).reshape(8, 80) % 30)
    assert low.height > 8 and low.width > 30 * 15, "an image lower than one line gets a column for each class"


def test_a_mask_without_any_class_is_the_image():
    empty = draw_mask(image(), np.full((60, 80), 255))
    assert empty.size == (80, 60) and (np.asarray(empty) == GREY).all()


def test_a_box_has_its_edges_where_it_says_and_a_label_above():
    drawn = np.asarray(draw_detections(image(), one_box([10, 30, 50, 55])))
    colour = class_palette(2)[1]
    on_edges = [drawn[30, 10:50], drawn[54, 10:50], drawn[30:55, 10], drawn[30:55, 49]]
    assert all((edge == colour).all() for edge in on_edges)
    assert (drawn[31:54, 11:49] == GREY).all() and (drawn[55:] == GREY).all() and (drawn[30:, 50:] == GREY).all()
    assert (drawn[29, 10] == colour).all() and (drawn[15:30, 10:40] == colour).all(axis=-1).mean() > 0.3, "the label"


def test_boxes_are_cut_at_the_image_and_those_outside_are_left_out():
    colour = class_palette(2)[1]
    whole = np.asarray(draw_detections(image(), one_box([-20, -9, 500, 400])))
    assert (whole[-1] == colour).all() and (whole[20:, 0] == colour).all() and (whole[:, -1] == colour).all()
    for outside in ([90, 10, 120, 20], [-30, 5, -2, 9], [20, 20, 20, 40], [30, 30, 20, 20]):
        assert (np.asarray(draw_detections(image(), one_box(outside))) == GREY).all()


def test_low_scores_are_left_out_and_the_best_lies_on_top():
    boxes, classes = np.array([[10, 30, 50, 55], [10, 30, 50, 55]], float), np.array([0, 1])
    top = np.asarray(draw_detections(image(), Detections(boxes, classes, np.array([0.9, 0.8]))))
    assert (top[54, 10:50] == class_palette(1)[0]).all()
    top = np.asarray(draw_detections(image(), Detections(boxes, classes, np.array([0.6, 0.8]))))
    assert (top[54, 10:50] == class_palette(2)[1]).all()
    assert (np.asarray(draw_detections(image(), one_box([10, 30, 50, 55], score=0.2))) == GREY).all()
    assert (np.asarray(draw_detections(image(), one_box([10, 30, 50, 55], 0.2), threshold=0.1)) != GREY).any()


def test_instance_masks_are_blended_in_the_colour_of_their_class():
    masks = np.zeros((1, 60, 80), np.uint8)
    masks[0, 35:45, 20:30] = 1
    drawn = np.asarray(draw_detections(image(), one_box([10, 30, 50, 55], masks=masks)))
    assert (drawn[35:45, 20:30] == np.round((GREY + class_palette(2)[1].astype(float)) / 2)).all()
    assert (drawn[46:54, 11:49] == GREY).all()


@pytest.mark.parametrize("masks", [None, np.zeros((0, 60, 80)), np.zeros((0, 28, 28))])
def test_no_detections_give_the_image(masks):
    for boxes in (np.zeros((0, 4)), np.zeros(0), []):
        drawn = draw_detections(image(), Detections(boxes, np.zeros(0), np.zeros(0), masks))
        assert drawn.size == (80, 60) and (np.asarray(drawn) == GREY).all()


def test_what_does_not_fit_is_refused_in_one_line():
    mask = np.zeros((60, 80), np.uint8)
    with refused("plugins.picture-shape", "(H, W, 3) uint8, got (60, 80) uint8"):
        draw_mask(mask, mask)
    with refused("plugins.picture-shape", "float64"):
        draw_mask(image().astype(float), mask)
    with refused("plugins.picture-shape", "the mask is 59x80, its image 60x80"):
        draw_mask(image(), mask[1:])
    with refused("plugins.picture-values", "whole numbers, got float64"):
        draw_mask(image(), mask.astype(float))
    with refused("plugins.picture-values", "count from 0, got -1"):
        draw_mask(image(), np.full((60, 80), -1))
    with refused("plugins.picture-values", "opacity goes from 0 to 1, got 2"):
        draw_mask(image(), mask, opacity=2)
    with refused("plugins.picture-palette", "2 colours, and there is a class 3"):
        draw_mask(image(), mask + 3, palette=class_palette(2))
    with refused("plugins.picture-shape", "a palette is (classes, 3)"):
        draw_mask(image(), mask, palette=np.zeros(3))
    with refused("plugins.picture-shape", "boxes (N, 4)", "got (1, 4), (2,) and (1,)"):
        draw_detections(image(), Detections(np.zeros((1, 4)), np.zeros(2, int), np.zeros(1)))
    with refused("plugins.picture-shape", "boxes (N, 4)"):
        draw_detections(image(), Detections(np.zeros((1, 5)), np.zeros(1, int), np.zeros(1)))
    with refused("plugins.picture-shape", "here (1, 60, 80), got (1, 28, 28)"):
        draw_detections(image(), one_box([0, 0, 9, 9], masks=np.zeros((1, 28, 28))))
    with refused("plugins.picture-values", "classes are whole numbers"):
        draw_detections(image(), one_box([0, 0, 9, 9], class_=0.5))
    with refused("plugins.picture-values", "count from 0, got -1"):
        draw_detections(image(), one_box([0, 0, 9, 9], class_=-1))
    with refused("plugins.picture-values", "not finite"):
        draw_detections(image(), one_box([0, 0, np.nan, 9]))
