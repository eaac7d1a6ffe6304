"""Examples in the API description; a test sends each of them."""

from __future__ import annotations

from typing import Any

_TALK = [{"role": "user", "content": "What is the capital of France?"}]

EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/jobs": {
        "a prompt": {"operation": "infer", "prompt": "Once upon a time", "max_tokens": 64},
        "a conversation": {
            "messages": _TALK,
            "temperature": 0.7,
            "top_p": 0.95,
            "seed": 7,
            "stop": ["\n\n"],
        },
        "the worker's status": {"operation": "status"},
    },
    "/v1/inference": {"a prompt": {"prompt": "Once upon a time", "max_tokens": 64}},
    "/v1/infer": {"a prompt": {"prompt": "2 + 2 =", "max_tokens": 8, "temperature": 0}},
    "/v1/completions": {
        "one": {"prompt": "The bee", "max_tokens": 16, "logprobs": 2},
        "scoring": {"prompt": "The bee hums.", "max_tokens": 0, "echo": True, "logprobs": 1},
    },
    "/v1/chat/completions": {
        "a question": {"messages": _TALK, "max_tokens": 64},
        "streamed": {
            "messages": _TALK,
            "max_tokens": 64,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "/v1/messages": {"a question": {"messages": _TALK, "max_tokens": 64}},
    "/v1/messages/count_tokens": {"a question": {"messages": _TALK}},
    "/v1/responses": {
        "a question": {"input": "What is the capital of France?", "max_output_tokens": 64},
        "a conversation": {"input": _TALK, "instructions": "Be brief.", "store": False},
    },
    "/v1/responses/input_tokens": {"a question": {"input": "What is the capital of France?"}},
    "/api/chat": {"a question": {"messages": _TALK, "options": {"num_predict": 64}}},
    "/api/generate": {"a question": {"prompt": "What is the capital of France?", "stream": False}},
    "/api/embed": {"a text": {"input": "The bee hums."}},
    "/api/embeddings": {"a text": {"prompt": "The bee hums."}},
    "/api/show": {"the model": {}},
    "/completion": {"a prompt": {"prompt": "The bee", "n_predict": 16}},
    "/embedding": {"a text": {"content": "The bee hums."}},
    "/v1/embeddings": {
        "a text": {"input": "The bee hums."},
        "several": {"input": ["The bee hums.", "The fly too."], "dimensions": 4},
    },
    "/v1/audio/speech": {"a text": {"input": "The bee hums.", "voice": "default", "seed": 7}},
    "/v1/score": {"a pair": {"text_1": "What hums?", "text_2": ["A bee.", "A stone."]}},
    "/v1/rerank": {
        "two documents": {"query": "What hums?", "documents": ["A stone.", "A bee."], "top_n": 1}
    },
    "/v1/classify": {"a text": {"input": "The bee hums."}},
    "/tokenize": {"a text": {"text": "The bee hums."}},
    "/detokenize": {"ids": {"tokens": [1, 2, 3]}},
    "/apply-template": {"a question": {"messages": _TALK}},
    "/v1/chat/completions/input_tokens": {"a question": {"messages": _TALK}},
}

EVENTS = """id: 1
data: {"type":"started","job_id":"job-1f0c2d","model":"smollm2","prompt_tokens":4,"seed":7,...}

id: 2
data: {"type":"token","t":" there","i":0,"ids":[665]}

id: 3
data: {"type":"end","tokens_out":1,"stop_reason":"MAX_TOKENS",...}

data: [DONE]

"""
