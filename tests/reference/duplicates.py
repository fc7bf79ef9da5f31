# SPDX-License-Identifier: Apache-2.0
"""PixelPrune's prediction of tokens, one after the other, and the picture that a decoder restores from it."""


def predicted(value, y, x, tolerance):
    """The prediction at (y, x) of a grid `value` (H, W, D), of which only what comes before is read."""
    if x == 0:
        return value[y - 1, x]
    if y == 0:
        return value[y, x - 1]
    left, upper, corner = value[y, x - 1], value[y - 1, x], value[y - 1, x - 1]
    is_edge = is_close(corner, left, tolerance) and not is_close(corner, upper, tolerance)
    return upper if is_edge else left


def is_close(first, second, tolerance):
    return bool(((first - second).abs() <= tolerance).all())


def kept(pixels, tolerance):
    """Slots of a video (T, H, W, D) that are kept; each frame on its own."""
    frames, height, width, _ = pixels.shape
    found = []
    for frame in range(frames):
        value = pixels[frame].clone()  # what a decoder has in each place
        for y in range(height):
            for x in range(width):
                slot = (frame * height + y) * width + x
                if y == x == 0:
                    found.append(slot)
                    continue
                guess = predicted(value, y, x, tolerance).clone()
                if is_close(pixels[frame, y, x], guess, tolerance):
                    value[y, x] = guess
                else:
                    found.append(slot)
    return found


def restored(pixels, slots, tolerance):
    """The video (T, H, W, D), where only the pixels of `slots` are read."""
    frames, height, width, depth = pixels.shape
    rows, value = pixels.view(-1, depth), pixels.new_full(pixels.shape, float("nan"))
    for slot in range(len(rows)):
        frame, y, x = slot // (height * width), slot // width % height, slot % width
        is_kept = slot in slots
        value[frame, y, x] = rows[slot] if is_kept else predicted(value[frame], y, x, tolerance)
    return value
