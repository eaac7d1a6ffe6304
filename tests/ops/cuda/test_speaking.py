"""MetaVoice's first stage on `cuda`: two lanes in each step, guided by a voice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rbee_worker.engine.messages import Submit
from rbee_worker.types import SamplingParams
from tests import speaking
from tests.ops.cuda.engines import running


@pytest.mark.slow
def test_tokens_and_scores_are_those_of_the_reference(tmp_path: Path) -> None:
    """Three requests that share steps: two voices, and none."""
    path = speaking.write(tmp_path, "plain")
    run = running(path, context=160, speaks=True)
    text = list(range(speaking.TEXT, speaking.TEXT + 9))
    voices = [speaking.voice("plain", 1), speaking.voice("plain", 2), None]
    for n, voice in enumerate(voices):
        params = SamplingParams(temperature=0.0, max_tokens=4, logprobs=0)
        run.submit(
            Submit(
                seq=str(n),
                prompt_ids=(*text[: 9 - n], speaking.END_OF_TEXT),
                params=params,
                voice=b"" if voice is None else voice.tobytes(),
                guidance=3.0 - n,
            )
        )
    run.end()
    for n, voice in enumerate(voices):
        answer, ids = run.answers[str(n)], [*text[: 9 - n], speaking.END_OF_TEXT]
        assert len(answer.ids) == 4
        for token, score in zip(answer.ids, answer.logprobs, strict=True):
            own = speaking.logits("plain", ids, voice)[-1]
            other = speaking.logits("plain", ids, None)[-1]
            want = (3.0 - n) * own + (n - 2.0) * other
            likely = want - want.max() - np.log(np.exp(want - want.max()).sum())
            assert token == want.argmax()
            assert abs(score.logprob - likely[token]) < 1e-4 * np.abs(want).max()
            ids.append(token)
