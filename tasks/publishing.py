"""The one way in which a clip gets under `videos/`: with a release token for exactly its bytes.

Both a run and a person's approval go through here.
"""

from __future__ import annotations

from tasks.records import thumbnail_name, video_name
from tasks.release import ReleaseToken, require_release
from tasks.storage import Store

__all__ = ["show_clip"]


def show_clip(
    store: Store,
    scenario_id: str,
    video: bytes,
    thumbnail: bytes,
    token: ReleaseToken | None,
    key: bytes,
    *,
    job_id: str | None,
    policy_sha256: str,
) -> str:
    """Upload a clip and its thumbnail; returns the clip's name. Whoever calls this writes the record afterwards.

    The bytes that were checked against the token are the bytes that are uploaded: they are read once.

    Raises:
        ReleaseRefused: nothing entitles these bytes to be published as the clip of this scenario.
        StorageUnavailable: the store refused or did not answer.
    """
    require_release(token, video, key, scenario_id=scenario_id, job_id=job_id, policy_sha256=policy_sha256)
    store.publish_bytes(video, video_name(scenario_id), content_type="video/mp4")
    store.publish_bytes(thumbnail, thumbnail_name(scenario_id), content_type="image/jpeg")
    return video_name(scenario_id)
