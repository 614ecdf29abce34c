import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vocdist.shards.images import Shrink
from vocdist.shards.plan import MAX_KEY_BYTES, PlannedSample, plan_hash, plan_shards, sample_key

IMAGES = Path("JPEGImages")


def samples(count: int, prefix: str = "s") -> list[PlannedSample]:
    return [
        PlannedSample(f"{prefix}{i}", f"{prefix}{i}.jpg", b"\0" * 32, b"{}", ())
        for i in range(count)
    ]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 15))
def test_every_sample_is_in_one_shard_in_order_and_only_the_last_is_short(train, val, per_shard):
    splits = {"train": samples(train, "t"), "val": samples(val, "v")}
    plans = plan_shards(splits, per_shard, images=IMAGES)
    for split, members in splits.items():
        assert [s for plan in plans[split] for s in plan.samples] == members
        assert [plan.name for plan in plans[split]] == [
            f"{split}-{i:06d}.tar" for i in range(len(plans[split]))
        ]
        assert all(len(plan.samples) == per_shard for plan in plans[split][:-1])
        assert all(plan.samples for plan in plans[split])


def test_the_hash_knows_contents_records_order_and_settings():
    def hash_of(members, per_shard=2, shrink=None):
        plans = plan_shards({"train": members}, per_shard, images=IMAGES, shrink=shrink)
        return plan_hash(plans)

    base = samples(3)
    changed_image = [PlannedSample("s0", "s0.jpg", b"\1" * 32, b"{}", ()), *base[1:]]
    changed_record = [PlannedSample("s0", "s0.jpg", b"\0" * 32, b"[]", ()), *base[1:]]
    found = [
        hash_of(base),
        hash_of(changed_image),
        hash_of(changed_record),
        hash_of(base, per_shard=3),
        hash_of(base, shrink=Shrink(100, 90)),
        hash_of(base, shrink=Shrink(100, 91)),
    ]
    assert len(set(found)) == len(found)
    assert hash_of(samples(3)) == hash_of(base)


def test_the_hash_does_not_know_where_the_images_lie():
    here, there = (
        plan_shards({"train": samples(3)}, 2, images=Path(folder)) for folder in ("a", "b")
    )
    assert plan_hash(here) == plan_hash(there)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), min_size=1))
def test_a_key_has_no_dot_no_blank_no_slash_and_fits_a_tar_header(stem):
    key = sample_key(stem)
    assert re.fullmatch(r"[^.\s/\\]+", key)
    assert key.isprintable()
    assert 0 < len(key.encode()) <= MAX_KEY_BYTES


def test_keys_by_hand():
    assert sample_key("2007_000027") == "2007_000027"
    assert sample_key("photo.v2 (über)") == "photo_v2_(über)"
    assert sample_key("caf\udce9") == "caf_"
    long = [sample_key("x" * 200 + end) for end in "ab"]
    assert long[0] != long[1]
    assert sample_key("ß" * 60).startswith("ß" * 31 + "_")
