from xml.etree import ElementTree

from trainers.sft.benchmarks.bars import bars

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_numbers():
    rows = [{"who": "a < b", "speed": 300, "memory": 1.5}, {"who": "c", "speed": 100, "memory": 0.0}]
    document = ElementTree.fromstring(bars("who", ("speed", "memory"), rows))
    background, *rectangles = document.iter(f"{SVG}rect")
    fast, slow, large, none = (float(each.get("width")) for each in rectangles)
    assert fast == 3 * slow
    assert large == fast
    assert none == 0
    texts = [each.text for each in document.iter(f"{SVG}text")]
    assert texts == ["a < b", "c", "speed", "300", "100", "memory", "1.5", "0.0"]
    right = max(float(each.get("x")) + float(each.get("width")) for each in rectangles)
    assert right < float(background.get("width"))
