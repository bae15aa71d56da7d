"""What a progress line says."""

from __future__ import annotations

from rlscale.progress import short, throughput


def test_throughput_is_that_of_all_members_since_the_row_before() -> None:
    before = {"env_step": 4096, "updates": 8, "wall_s": 60.0}  # a minute for compiling, which says nothing of speed
    row = {"env_step": 4096 * 11, "updates": 88, "wall_s": 62.5}
    assert throughput(before, row, members=3, batch_size=8192) == "49.2k transitions/s, 96 updates/s, 786k samples/s"
    assert throughput(row, row, members=3, batch_size=8192) == ""


def test_numbers_are_short() -> None:
    spelt = {0: "0", 0.25: "0.25", 7.125: "7.12", 999.4: "999", 999.6: "1k", 21_234: "21.2k", 1e6: "1M", 2.5e9: "2.5G"}
    assert {number: short(number) for number in spelt} == spelt
