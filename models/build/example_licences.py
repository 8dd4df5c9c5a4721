"""LICENSE texts of the example sets."""

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
