"""Engine cores with a toy in place of the model: they run in the real core process, behind the real socket.

`EchoCore` repeats the prompt's tokens, one a step; choice i of n begins at the prompt's token i. Token ids of
the prompt steer it: `HANG` makes the step last `SLIPWAY_TEST_HANG` seconds, `CRASH` raises in it, `DIE` ends
the process. A prompt's token at position i has the log-probability -i / 4, with `SLIPWAY_TEST_POOLING` set a
prompt's embedding is its length, 0.5 and -1.
"""

import os
import time

from slipway_engine.core.messages import CoreStats, Ready, RequestOutput, StepOutput, TokenLogprob
from slipway_engine.errors import ModelCorrupt, RequestError

# Words so rare that no other test writes them by accident.
HANG, CRASH, DIE = 49140, 49141, 49142


class EchoCore:
    def __init__(self, config):
        time.sleep(float(os.environ.get("SLIPWAY_TEST_LOAD", "0")))
        self.block_size = config.block_size
        self.max_num_seqs = config.max_num_seqs
        self.max_waiting = config.max_waiting
        self.ready = Ready(
            max_model_len=config.max_model_len or 256,
            vocab_size=int(os.environ.get("SLIPWAY_TEST_VOCAB", "49152")),
            num_kv_blocks=1000,
            block_size=config.block_size,
            max_num_seqs=config.max_num_seqs,
            dtype="float32",
            device="cpu",
            eos_token_ids=(2,),
            load_seconds={"weights": 0.1},
            pooling=os.environ.get("SLIPWAY_TEST_POOLING"),
            memory={"limit": 1 << 30, "weights": 96 << 20},
        )
        self.step_seconds = float(os.environ.get("SLIPWAY_TEST_STEP", "0.001"))
        self.waiting, self.running, self.tokens, self.open = [], {}, {}, {}
        self.steps = self.prompt_tokens = self.generation_tokens = 0

    def add_request(self, request):
        if len(self.waiting) >= self.max_waiting:
            raise RequestError(
                "The queue is full; try again later.", code="queue_full", status=429, retry_after=6.5
            )
        self.waiting.append(request)

    def abort(self, request_ids):
        for name in request_ids:
            self.running.pop(name, None)
            self.tokens.pop(name, None)
            self.open.pop(name, None)
            self.waiting = [request for request in self.waiting if request.request_id != name]

    def stop_choices(self, choices):
        for name, index in choices:
            if name in self.running:
                self._end(name, index)

    def has_work(self):
        return bool(self.waiting or self.running)

    def step(self):
        while self.waiting and len(self.running) < self.max_num_seqs:
            request = self.waiting.pop(0)
            self.running[request.request_id] = request
            self.tokens[request.request_id] = []
            self.open[request.request_id] = set(range(request.sampling.n))
            self.prompt_tokens += len(request.prompt_token_ids)
            self._obey(request.prompt_token_ids)
        time.sleep(self.step_seconds)
        self.steps += 1
        outputs = tuple(
            output for request in list(self.running.values()) for output in self._advance(request)
        )
        return StepOutput(outputs, self.stats())

    def _obey(self, prompt):
        if HANG in prompt:
            time.sleep(float(os.environ.get("SLIPWAY_TEST_HANG", "2")))
        if CRASH in prompt:
            raise RuntimeError("the toy was told to crash")
        if DIE in prompt:
            os._exit(7)

    def _advance(self, request):
        name, out, sampling = request.request_id, self.tokens[request.request_id], request.sampling
        if request.deadline is not None and time.monotonic() > request.deadline:
            self.abort([name])
            late = {
                "error": "The deadline has passed.",
                "error_code": "deadline_exceeded",
                "error_status": 504,
            }
            return [RequestOutput(name, finish_reason="error", **late)]
        if request.pooling:
            self.abort([name])
            vector = (float(len(request.prompt_token_ids)), 0.5, -1.0)
            return [RequestOutput(name, finish_reason="stop", embedding=vector)]
        scores = [] if out or request.prompt_logprobs is None else self._scores(request)
        if not request.generates:
            self.abort([name])
            return [*scores, RequestOutput(name, finish_reason="length")]
        out.append(None)
        return [*scores, *(self._choice(request, index, sampling) for index in sorted(self.open[name]))]

    def _scores(self, request):
        """Return the prompt's log-probabilities, three tokens an output."""
        entries = [
            TokenLogprob(
                token,
                -at / 4,
                tuple((token + rank, -at / 4 - rank) for rank in range(request.prompt_logprobs)),
            )
            for at, token in enumerate(request.prompt_token_ids)
        ][1:]
        pieces = [entries[at : at + 3] for at in range(0, len(entries), 3)]
        return [RequestOutput(request.request_id, prompt_logprobs=tuple(piece)) for piece in pieces]

    def _choice(self, request, index, sampling):
        name, length = request.request_id, len(self.tokens[request.request_id])
        token = request.prompt_token_ids[(length - 1 + index) % len(request.prompt_token_ids)]
        self.generation_tokens += 1
        stops = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else {2})
        finish = None
        if token in stops and length > sampling.min_tokens:
            finish = "stop"
        elif length >= sampling.max_tokens:
            finish = "length"
        if finish:
            self._end(name, index)
        top = tuple((token + rank, -0.5 - rank) for rank in range(sampling.logprobs or 0))
        first = length == 1 and index == 0
        return RequestOutput(
            name,
            (token,),
            (TokenLogprob(token, -0.5, top),) if sampling.logprobs is not None else (),
            finish_reason=finish,
            stop_reason=token if finish == "stop" and token in sampling.stop_token_ids else None,
            cached_tokens=3 if first else 0,
            queue_seconds=0.001 if first else 0.0,
            prefill_seconds=0.002 if first else 0.0,
            index=index,
        )

    def _end(self, name, index):
        self.open[name].discard(index)
        if not self.open[name]:
            del self.running[name], self.tokens[name], self.open[name]

    def stats(self):
        return CoreStats(
            num_requests_running=sum(len(self.open[name]) for name in self.running),
            num_requests_waiting=len(self.waiting),
            kv_blocks_used=sum(
                -(-(len(r.prompt_token_ids) + len(self.tokens[n])) // self.block_size)
                for n, r in self.running.items()
            ),
            kv_blocks_total=1000,
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generation_tokens,
            steps=self.steps,
        )

    def check_idle(self):
        assert not self.running
        assert not self.tokens, self.tokens


class UnloadableCore(EchoCore):
    def __init__(self, config):
        raise ModelCorrupt(f"{config.model} is cut off: fetch it again.")
