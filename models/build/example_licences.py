"""README and LICENSE texts of the example sets."""

FLUENT_LICENCE = """\
The pictures are made from Fluent Emoji, Copyright (c) Microsoft Corporation, MIT licence,
as packaged in the npm package @lobehub/fluent-emoji-3d 1.1.0 (MIT). They were resized, turned and
put on plain backgrounds. The captions are part of this project.

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

TWEMOJI_LICENCE = """\
The pictures are made from Twemoji graphics, Copyright Twitter, Inc and other contributors,
licensed under CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/), source:
https://github.com/jdecked/twemoji, as packaged in the npm package @twemoji/svg 15.0.0.
Changes: drawn at 256 pixels, scaled to 7/8 and put on plain backgrounds.
Whoever passes these pictures on keeps this attribution. The captions are part of this project.
"""

READMES = {
    "police-car": """\
# A subject: police car

12 pictures of one emoji that the built-in base model has never seen, in varied size, place, tilt
and background. Class word: `car`. Trigger word: any rare one, such as `ohwx`. The captions leave it
out; the trainer puts it in front of each.

What to expect: before training, "ohwx, 3d emoji of a car, blue background" is the base model's own
red car. After a few hundred steps it is the grey and black one with the red light, while "3d emoji
of a car, blue background" stays as it was.

Licence: MIT, see LICENSE.
""",
    "teddy-and-peacock": """\
# Two subjects in one set: teddy and peacock

Two folders, each meant for its own trigger word: `teddy/` (8 pictures, class word `bear`, for
example trigger `ohwx`) and `peacock/` (8 pictures, class word `bird`, for example trigger `bnha`).
The base model has seen neither. The captions leave the triggers out.

A run has one trigger word so far: train the folders one after the other, such as
`--images datasets/teddy-and-peacock/teddy --trigger ohwx --class-word bear`, and give `generate`
both adapters. What the set is for, both in one adapter without green feathers on the teddy or brown
fur on the peacock, is not built yet.

Licence: MIT, see LICENSE.
""",
    "flat-paper": """\
# A style: flat paper

28 pictures in a style that the base model has never seen: Twemoji, flat shapes in few colours,
like paper cut-outs, of subjects that it knows in other styles. Class word: `emoji`. Trigger word:
for example `ohwx`. The captions name the subject and the background, never the style.

What to expect after 400 steps: "ohwx, emoji of a fox" is the flat fox, while "3d emoji of a fox"
keeps its shading, somewhat paler. Subjects outside the set, such as a guitar, turn flat less
cleanly.

Licence: CC-BY 4.0 with attribution, see LICENSE.
""",
}
