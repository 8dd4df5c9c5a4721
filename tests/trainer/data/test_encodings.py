"""Captions that are not in UTF-8: read rightly, or refused by name; never as other letters."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainer.data.folders_for_tests import about, captions_of, picture, put
from trainer.data.captions import clean_caption
from trainer.data.encodings import find_encoding, utf8_or_none
from trainer.data.sets import scan_image_set

TEXTS: dict[str, list[str]] = {
    "Russian": [
        *("девушка в красном платье", "чёрная собака на траве", "портрет мужчины, борода"),
        *("кот сидит на окне", "закат над морем", "1girl, длинные волосы, улыбка"),
        *("дом у реки, осень", "лес зимой, снег, следы", "рыжая лиса", "город ночью, огни"),
    ],
    "Chinese": [
        *("一只黑色的狗在草地上", "红色裙子的女孩", "微笑,长发,室内", "猫坐在窗台上"),
        *("一个男人的肖像，胡子", "1girl, 蓝色眼睛, 校服", "雪地里的森林", "桌子上的白色杯子"),
        *("特写镜头，看着观众", "河边的房子，秋天"),
    ],
    "Japanese": [
        *("草の上の黒い犬", "赤いドレスの女の子", "笑顔、長い髪", "窓辺に座る猫"),
        *("1girl, 青い目, 制服", "テーブルの上の白いカップ", "ボールを持つ男の子", "料理の写真"),
        *("カメラ目線のアップ", "野原を走る馬"),
    ],
    "Korean": [
        *("잔디 위의 검은 개", "빨간 드레스를 입은 소녀", "창가에 앉은 고양이", "눈 덮인 숲"),
        *("수염 난 남자의 초상", "바다 위의 일몰", "공을 가진 소년", "밤의 도시"),
    ],
    "German": [
        *("ein Mann mit grüner Mütze", "Häuser am Fluß", "Königin, Öl auf Leinwand", "Bäume"),
        *("großer Löwe", "süßes Kätzchen", "Straße", "Café bei Nacht"),
    ],
    "Polish": [
        *("dziewczyna w czerwonej sukience, łąka", "żółty samochód", "pies na trawie, źdźbło"),
        *("zamek we mgle, wzgórze", "kobieta patrząca w obiektyw", "święta, śnieg"),
    ],
    "English": [
        *("a woman’s portrait – close up", "“retro” poster… blue", "café scene", "a dog, 45°"),
    ],
}
ENCODINGS = [
    *(("Russian", name) for name in ("cp1251", "koi8_r", "cp866", "utf_16_le", "utf_16_be")),
    *(("Chinese", name) for name in ("gb18030", "utf_16_le")),
    *(("Japanese", name) for name in ("cp932", "euc_jp", "utf_16_be")),
    *(("Korean", "cp949"), ("German", "cp1252"), ("English", "cp1252"), ("English", "utf_16_le")),
    *(("Polish", name) for name in ("cp1250", "iso8859_2")),
]


@pytest.mark.parametrize(("language", "encoding"), ENCODINGS)
def test_a_set_of_short_captions_is_read_rightly(language: str, encoding: str) -> None:
    data = [text.encode(encoding) for text in TEXTS[language]]
    strange = [one for one in data if utf8_or_none(one) is None]
    found = find_encoding(strange)
    assert found is not None
    assert [one.decode(found) for one in strange] == [one.decode(encoding) for one in strange]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_captions_hardly_any_is_read_wrongly(count: int) -> None:
    """What is too short is refused. Polish, in letters that French has too, is the exception."""
    draw, wrong, total = random.Random(0), 0, 0
    for language, encoding in ENCODINGS:
        data = [text.encode(encoding) for text in TEXTS[language]]
        strange = [one for one in data if utf8_or_none(one) is None]
        for _ in range(40):
            chosen = draw.sample(strange, min(count, len(strange)))
            found = find_encoding(chosen)
            total += 1
            wrong += found is not None and any(
                one.decode(found, "replace") != one.decode(encoding) for one in chosen
            )
    assert wrong <= {1: 0.02, 2: 0.005, 3: 0.002}[count] * total


def test_what_was_read_is_shown(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"{n}.png": picture(n) for n in range(11)}
    files |= {f"{n}.txt": text.encode("cp1251") for n, text in enumerate(TEXTS["Russian"])}
    files["10.txt"] = "кот, в UTF-8"
    image_set = scan_image_set(put(tmp_path, files))
    assert captions_of(image_set)["0.png"] == TEXTS["Russian"][0]
    assert captions_of(image_set)["10.png"] == "кот, в UTF-8"
    (finding,) = about(image_set, "0.txt", "Windows-1251.*line of it: девушка в красном платье")
    assert finding.severity == "warning" and len(finding.pictures) == 10


def test_what_cannot_be_told_is_refused_by_name(tmp_path: Path) -> None:
    files = {"a.png": picture(1), "a.txt": "лиса".encode("cp1251"), "b.png": picture(2)}
    image_set = scan_image_set(put(tmp_path, files))
    assert captions_of(image_set) == {"a.png": None, "b.png": None}
    assert [one.severity for one in about(image_set, "a.txt", "can't be told")] == ["error"]


RUSSIAN = TEXTS["Russian"]


@pytest.mark.parametrize("encoding", ["cp1251", "utf_16_le", "utf_16"])
@pytest.mark.parametrize("name", ["metadata.csv", "list.tsv", "metadata.jsonl", "captions.json"])
def test_a_table_is_read_in_its_code_page(name: str, encoding: str, tmp_path: Path) -> None:
    files = {f"{n}.png": picture(n) for n in range(len(RUSSIAN))}
    files[name] = _table(name, RUSSIAN).encode(encoding)
    image_set = scan_image_set(put(tmp_path, files))
    assert [entry.caption for entry in image_set.entries] == [clean_caption(t) for t in RUSSIAN]
    assert len(about(image_set, name, "Not in UTF-8: read as")) == (encoding != "utf_16")


@pytest.mark.parametrize("name", ["metadata.csv", "list.tsv", "metadata.jsonl", "captions.json"])
def test_a_table_of_an_unknown_code_page_is_refused_by_name(name: str, tmp_path: Path) -> None:
    table = _table(name, ["лиса"]).encode("cp1251")
    image_set = scan_image_set(put(tmp_path, {"0.png": picture(1), name: table}))
    assert image_set.entries[0].caption is None
    assert [one.severity for one in about(image_set, name, "not in UTF-8")] == ["error"]


def test_json_beside_pictures_is_judged_together(tmp_path: Path) -> None:
    files = {f"{n}.png": picture(n) for n in range(len(RUSSIAN))}
    files |= {
        f"{n}.json": json.dumps({"text": text}, ensure_ascii=False).encode("cp1251")
        for n, text in enumerate(RUSSIAN)
    }
    image_set = scan_image_set(put(tmp_path / "many", files))
    assert [entry.caption for entry in image_set.entries] == [clean_caption(t) for t in RUSSIAN]
    lone = {"0.png": picture(1), "0.json": '{"text": "лиса"}'.encode("cp1251")}
    image_set = scan_image_set(put(tmp_path / "one", lone))
    assert image_set.entries[0].caption is None
    assert [one.severity for one in about(image_set, "0.json", "not in UTF-8")] == ["error"]


def _table(name: str, texts: Sequence[str]) -> str:
    rows = [{"file_name": f"{n}.png", "text": text} for n, text in enumerate(texts)]
    if name.endswith(".json"):
        return json.dumps(rows, ensure_ascii=False)
    if name.endswith(".jsonl"):
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    mark = "\t" if name.endswith(".tsv") else ","
    lines = [f'{row["file_name"]}{mark}"{row["text"]}"' for row in rows]
    return "\n".join([f"file_name{mark}text", *lines])
