"""Converting to S3: the same bytes as on disk, whole or not there, and going on after a kill."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from vocdist.errors import UserError
from vocdist.remote import transfer
from vocdist.remote.cache import cache_folder
from vocdist.remote.transfer import upload_files
from vocdist.shards.format import load_manifest
from vocdist.shards.publish import publish, published, staged
from vocdist.shards.verify import verify_shards

REPO = Path(__file__).parents[2]


def objects(url: str) -> dict[str, str]:
    """Name -> hash of all that is in a bucket."""
    bucket = boto3.resource("s3").Bucket(url.removeprefix("s3://").partition("/")[0])
    return {
        item.key.rpartition("/")[2]: hashlib.sha256(item.get()["Body"].read()).hexdigest()
        for item in bucket.objects.all()
    }


def visible(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name[0] != "."
    }


def stage(shards: Path, url: str, root: Path) -> None:
    with staged(url, root) as folder:
        shutil.copytree(shards, folder, dirs_exist_ok=True)
        publish(folder, url)


def test_what_is_published_is_the_folder_and_verifies(
    demo_shards: Path, bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/voc/demo"
    stage(demo_shards, url, tmp_path)
    assert objects(url) == visible(demo_shards)
    assert load_manifest(url) == load_manifest(demo_shards)
    assert verify_shards(url, fast=True) == []
    manifest = load_manifest(demo_shards)
    assert published(url, manifest.plan_sha256) == manifest
    with pytest.raises(UserError, match=r"holds shards of other data or other settings \('demo'\)"):
        published(url, "another")
    # Nothing is left on this machine but a note of what the folder was for.
    (base,) = (tmp_path / "staging").iterdir()
    assert [path.name for path in base.iterdir()] == ["about.json"]


def test_verifying_names_what_is_wrong_behind_a_url(
    demo_shards: Path, bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/demo"
    stage(demo_shards, url, tmp_path)
    s3 = boto3.resource("s3").Bucket(bucket.removeprefix("s3://"))
    shard = demo_shards / "train-000000.tar"
    s3.put_object(Key="demo/train-000000.tar", Body=shard.read_bytes()[:-2048])
    s3.delete_objects(Delete={"Objects": [{"Key": "demo/train-000001.idx"}]})
    s3.delete_objects(Delete={"Objects": [{"Key": "demo/val-000000.tar"}]})
    s3.put_object(Key="demo/other.tar", Body=b"x")
    text = "\n".join(verify_shards(url, fast=True))
    for problem in (
        "train-000000.tar: cut",
        "train-000001.idx: missing",
        "val-000000.tar: missing",
    ):
        assert problem in text
    assert "other.tar: stray" in text
    # Not taken for complete, so that the next conversion mends it.
    assert published(url, load_manifest(demo_shards).plan_sha256) is None


def test_other_peoples_objects_are_not_touched(bucket: str, tmp_path: Path) -> None:
    s3 = boto3.resource("s3").Bucket(bucket.removeprefix("s3://"))
    s3.put_object(Key="mine/thesis.pdf", Body=b"x")
    with (
        pytest.raises(UserError, match=r"not empty \(it holds thesis.pdf\)"),
        staged(f"{bucket}/mine", tmp_path),
    ):
        pass


def test_a_second_run_on_this_machine_is_refused(bucket: str, tmp_path: Path) -> None:
    with (
        staged(f"{bucket}/demo", tmp_path),
        pytest.raises(UserError, match="another run is writing here"),
        staged(f"{bucket}/demo", tmp_path),
    ):
        pass


def test_only_what_is_not_there_is_uploaded(
    demo_shards: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, notes = f"{bucket}/demo", tmp_path / "notes"
    files = sorted(demo_shards.glob("*.tar"))
    put: list[str] = []
    really_put = transfer._put
    monkeypatch.setattr(transfer, "_put", lambda p, u: (put.append(p.name), really_put(p, u)))
    list(upload_files(files, url, notes))
    assert sorted(put) == [path.name for path in files]
    put.clear()
    list(upload_files(files, url, notes))
    # Without notes the objects are read back; of the same size, they are told apart by content.
    other = bytearray(files[0].read_bytes())
    other[7000] ^= 1
    boto3.resource("s3").Bucket(bucket.removeprefix("s3://")).put_object(
        Key=f"demo/{files[0].name}", Body=bytes(other)
    )
    notes.unlink()
    list(upload_files(files, url, notes))
    assert put == [files[0].name]
    assert objects(url) == {path.name: visible(demo_shards)[path.name] for path in files}


def test_a_manifest_is_not_put_over_what_another_run_replaced(
    demo_shards: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/demo"
    s3 = boto3.resource("s3").Bucket(bucket.removeprefix("s3://"))
    really = transfer.check_unchanged

    def meanwhile(*arguments):
        s3.put_object(Key="demo/train-000002.tar", Body=b"of another run")
        really(*arguments)

    monkeypatch.setattr("vocdist.shards.publish.check_unchanged", meanwhile)
    with pytest.raises(UserError, match="train-000002.tar: was replaced meanwhile"):
        stage(demo_shards, url, tmp_path)
    assert "manifest.json" not in objects(url)


def test_memory_urls_are_written_and_read(demo_shards: Path, tmp_path: Path) -> None:
    stage(demo_shards, "memory://voc/demo", tmp_path)
    assert load_manifest("memory://voc/demo") == load_manifest(demo_shards)


def test_missing_credentials_are_not_waited_for(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from vocdist.shards.format import load_manifest; load_manifest('s3://bucket/x')"
    hidden = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    env |= {"VOCDIST_RETRY_SECONDS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100
    )
    assert "UserError" in done.stderr
    assert "credentials" in done.stderr.splitlines()[-1]


def conversion(root: Path, url: str, cache: Path) -> subprocess.Popen[str]:
    settings = ["samples_per_shard=4", "split_seed=3", "name=test", "pictures=false", "workers=1"]
    script = [sys.executable, "scripts/make_shards.py", "configs/demo/shards.yaml"]
    return subprocess.Popen(
        [*script, f"source={root}", f"output={url}", *settings],
        cwd=REPO,
        env=os.environ | {"VOCDIST_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_in_mid_upload_it_ends_with_the_same_objects(
    demo_root: Path, bucket: str, tmp_path: Path
) -> None:
    whole, broken = f"{bucket}/whole", f"{bucket}-b/broken"
    boto3.client("s3").create_bucket(Bucket=f"{bucket.removeprefix('s3://')}-b")
    undisturbed = conversion(demo_root, whole, tmp_path / "a")
    process = conversion(demo_root, broken, tmp_path / "b")
    deadline = time.monotonic() + 120
    while len(objects(broken)) < 5:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert undisturbed.wait(120) == 0, undisturbed.communicate()
    undisturbed.communicate()
    expected, found = objects(whole), objects(broken)
    assert "manifest.json" not in found, "it was over before it could be killed"
    assert all(expected[name] == digest for name, digest in found.items())
    kept = uploaded_at(broken)
    again = conversion(demo_root, broken, tmp_path / "b")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert objects(broken) == expected
    assert len(expected) == 2 * 12 + 3
    # What was there and noted was left alone; at most those under way were written again.
    after = uploaded_at(broken)
    assert sum(after[name] != moment for name, moment in kept.items()) <= transfer.UPLOADS


def uploaded_at(url: str) -> dict[str, object]:
    bucket = boto3.resource("s3").Bucket(url.removeprefix("s3://").partition("/")[0])
    return {item.key: item.last_modified for item in bucket.objects.all()}


def test_each_url_has_its_own_staging_folder(tmp_path: Path) -> None:
    one, other = (cache_folder(tmp_path, "staging", f"s3://b/{name}") for name in "ab")
    assert one != other
