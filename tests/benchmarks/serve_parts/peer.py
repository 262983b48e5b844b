"""What one would write without a serving engine: ``transformers.generate`` behind FastAPI, in a process of its own.

python -m tests.benchmarks.serve_parts.peer MODEL_FOLDER PORT THREADS
"""

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModelForCausalLM, AutoTokenizer


def build(folder: str) -> FastAPI:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    app = FastAPI()

    @app.post("/generate")
    async def generate(request: Request) -> dict[str, Any]:
        asked = await request.json()
        torch.manual_seed(asked["seed"])
        prompt = tokenizer.apply_chat_template(
            asked["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        tokens = asked["max_tokens"]
        with torch.inference_mode():
            made = model.generate(
                **prompt,
                do_sample=True,
                temperature=asked["temperature"],
                top_p=asked["top_p"],
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = made[0, prompt["input_ids"].shape[1] :]
        return {"text": tokenizer.decode(new, skip_special_tokens=True), "tokens": len(new)}

    return app


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    uvicorn.run(build(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
