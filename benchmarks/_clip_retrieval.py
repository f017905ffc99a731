"""One pass of clip-retrieval's inference for each line on standard input; prints its seconds.

Runs under the Python of an environment of its own and imports nothing of ours. The reader, the
mapper and the writer are those that `clip-retrieval inference` builds, in the order of its runner;
the model is loaded and warmed up before the first pass and not counted.
"""

import json
import sys
import tempfile
import time


def main() -> None:
    """`_clip_retrieval.py FOLDER CLIP_MODEL BATCH WORKERS THREADS`."""
    folder, clip_model = sys.argv[1:3]
    batch_size, workers, threads = map(int, sys.argv[3:6])
    import torch
    from all_clip import load_clip
    from clip_retrieval.clip_inference.mapper import ClipMapper
    from clip_retrieval.clip_inference.reader import FilesReader
    from clip_retrieval.clip_inference.writer import NumpyWriter

    torch.set_num_threads(threads)
    only = {"enable_text": False, "enable_image": True, "enable_metadata": False}
    mapper = ClipMapper(
        use_mclip=False, clip_model=clip_model, use_jit=False, mclip_model="", **only
    )
    _, preprocess, tokenizer = load_clip(clip_model=clip_model, use_jit=False)

    def one_pass() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            reader = FilesReader(
                lambda keys: keys, preprocess, tokenizer, folder, batch_size, workers, **only
            )
            writer = NumpyWriter(
                partition_id=0, output_folder=out, output_partition_count=1, **only
            )
            images = 0
            for batch in reader:
                writer(mapper(batch))
                images += len(batch["image_tensor"])
            writer.flush()
            return {"images": images, "seconds": time.perf_counter() - start}

    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(one_pass()), flush=True)


if __name__ == "__main__":
    main()
