"""Steps in file names, in the patterns that frameworks and people use."""

from __future__ import annotations

import pytest

from runctl.checkpoint.step_names import Numbered, Unit, counter_in, number_in, step_of

STEP, EPOCH = Unit.STEP, Unit.EPOCH
WORDED = [
    # Lightning
    ("epoch=0-step=12.ckpt", 12, STEP),
    ("epoch=0-step=12-acc=0.9012.ckpt", 12, STEP),
    ("epoch=4-step=500-v1.ckpt", 500, STEP),
    ("lightning_logs/version_3/checkpoints/epoch=4-step=500.ckpt", 500, STEP),
    ("epoch=02-val_loss=0.32.ckpt", 2, EPOCH),
    ("model-epoch02-val_loss0.32.ckpt", 2, EPOCH),
    ("tb_logs/my_model/version_0/checkpoints/epoch=9-step=1000.ckpt", 1000, STEP),
    # Hugging Face, LLaMA-Factory, TRL, accelerate, diffusers
    ("checkpoint-500/model.safetensors", 500, STEP),
    ("checkpoint-1000/model-00001-of-00002.safetensors", 1000, STEP),
    ("checkpoint-1000/rng_state_3.pth", 1000, STEP),
    ("saves/LLaMA3-8B/lora/train_2024-05-25-20-27-47/checkpoint-1500/a.bin", 1500, STEP),
    ("checkpoints/checkpoint_7/pytorch_model.bin", 7, STEP),
    ("checkpoint-500/unet/diffusion_pytorch_model.safetensors", 500, STEP),
    ("epoch_3/pytorch_model.bin", 3, EPOCH),
    ("step_1200/pytorch_model.bin", 1200, STEP),
    # fairseq
    ("checkpoint3.pt", 3, STEP),
    ("checkpoint_3_1200.pt", 3, STEP),
    # YOLO, mmdetection, mmsegmentation, timm, torchvision, MoCo, DINO
    ("runs/detect/train3/weights/epoch10.pt", 10, EPOCH),
    ("epoch_12.pth", 12, EPOCH),
    ("iter_20000.pth", 20000, STEP),
    ("checkpoint-17.pth.tar", 17, STEP),
    ("checkpoint_0003.pth.tar", 3, STEP),
    ("checkpoint0012.pth", 12, STEP),
    ("model_epoch_30.pth", 30, EPOCH),
    ("ckpt_epoch_3.pth", 3, EPOCH),
    ("best_model_epoch_7_acc_0.91.pth", 7, EPOCH),
    # stable-baselines3, RLlib, CleanRL
    ("rl_model_10000_steps.zip", 10000, STEP),
    ("rl_model_replay_buffer_10000_steps.pkl", 10000, STEP),
    ("ppo_cartpole_200000_steps.zip", 200000, STEP),
    ("PPO_2026-11-28_18-20-45/checkpoint_000010/algorithm_state.pkl", 10, STEP),
    ("PPO_CartPole-v1_a1b2c_00000_0_2026-11-28_18-20-45/checkpoint_000002/rank_3.pt", 2, STEP),
    # Keras and TensorFlow
    ("ckpt-5.index", 5, STEP),
    ("ckpt-5.data-00000-of-00001", 5, STEP),
    ("model.ckpt-12345.meta", 12345, STEP),
    ("model.ckpt-12345.data-00000-of-00001", 12345, STEP),
    ("weights.epoch03-0.25.hdf5", 3, EPOCH),
    # T5X, MaxText, Orbax, PaxML
    ("checkpoint_100000/target.params/c/0.0", 100000, STEP),
    ("checkpoints/checkpoint_00000500/state/0", 500, STEP),
    # Megatron, NeMo, DeepSpeed
    ("iter_0000012/mp_rank_00/model_optim_rng.pt", 12, STEP),
    ("global_step1200/mp_rank_00_model_states.pt", 1200, STEP),
    ("global_step1200/zero_pp_rank_0_mp_rank_00_optim_states.pt", 1200, STEP),
    ("megatron_gpt--val_loss=4.12-step=900-consumed_samples=7200.0.ckpt", 900, STEP),
    # Composer, OLMo, Pythia, LightGBM, ESPnet, tortoise, kohya
    ("ep0-ba100-rank0.pt", 100, STEP),
    ("step1000-unsharded/model.pt", 1000, STEP),
    ("step143000/pytorch_model.bin", 143000, STEP),
    ("model.txt.snapshot_iter_50", 50, STEP),
    ("exp/asr_train/12epoch.pth", 12, EPOCH),
    ("my_lora-step00000500.safetensors", 500, STEP),
    ("sd-v1-5-step-2000.safetensors", 2000, STEP),
    # by hand
    ("step=12", 12, STEP),
    ("step_12", 12, STEP),
    ("step12", 12, STEP),
    ("Step 12.pkl", 12, STEP),
    ("STEP-0012.npz", 12, STEP),
    ("step-000000012b.npz", 12, STEP),
    ("modelStep12.pt", 12, STEP),
    ("MyNetEpoch3.pt", 3, EPOCH),
    ("step10k.pt", 10_000, STEP),
    ("global-step-12.pt", 12, STEP),
    ("train_step_12.pt", 12, STEP),
    ("ckpt.0001.pt", 1, STEP),
    ("iteration_7.pickle", 7, STEP),
    ("itr_900.pkl", 900, STEP),
    ("ep12.h5", 12, EPOCH),
    ("step-3-loss-0.7000.ckpt", 3, STEP),
    ("step-1/00/9999.bin", 1, STEP),
    ("unet_256x256_step_5000.pt", 5000, STEP),
    ("resnet50-epoch-9.pt", 9, EPOCH),
    ("20261128_182045-step-7.pt", 7, STEP),
    ("seed_3/fold_2/step_40.pt", 40, STEP),
    ("rank_3_step_40.pt", 40, STEP),
    ("ckpt-5-of-10-epochs/epoch-5.pt", 5, EPOCH),
]
NO_STEP = [
    "epoch0.5.pt",
    "checkpoint-acc-91.2.pt",
    "val_acc=91.pt",
    "loss=0.9034.ckpt",
    "model_0.91.pt",
    "step=1e5.pt",
    "checkpoint-1.0.pt",
    "2026-11-28/18-20-45/last.txt",
    "run-20261128_182045/model.pt",
    "checkpoint-20261128_182045.pt",
    "checkpoint_2026-11-28.pt",
    "ckpt_2026-11-28_18-20-45.pt",
    "ckpt-2026-11-28T18:20:45Z.pt",
    "ckpt_28-11-2026.pt",
    "Nov28_18-20-45_host17/model.pt",
    "step_2026-01-01.pt",
    "checkpoint-1795890000.pt",
    "checkpoint-1795890000123.pt",
    "checkpoint-1795890000.2547.pt",
    "resnet50.pt",
    "llama-7b.bin",
    "model-12b.bin",
    "vit_b_16_224.pt",
    "fp16/model.pt",
    "bert-base-uncased-12/pytorch_model.bin",
    "checkpoint-3f2a9c1.pt",
    "checkpoint-0b6f7c1e-8f43-4b0f-9c57-0d6f4e3f6b11/model.pt",
    "model-00001-of-00002.safetensors",
    "checkpoint-00001-of-00004.pt",
    "rank_3.pt",
    "mp_rank_00/model_states.pt",
    "shard-7.bin",
    "worker4/state.pkl",
    "version_12/model.pt",
    "model-v2.pt",
    "seed=42.pt",
    "events.out.tfevents.1795890000.host17",
    "step_12/events.out.tfevents.1795890000.host",
    "wandb/run-20261128_182045-ab12cd34/files/step_12.pt",
    "mlruns/0/step_12/model.pt",
    "samples/step_000100.png",
    "step_12.log",
    "metrics_epoch_3.csv",
    "max_steps=1000.pt",
    "num_epochs_90.pt",
    "every_100_steps.pt",
    "epochs100_lr0.1/model.pt",
    "runs/detect/train12/weights/last.pt",
    "multirun/2026-11-28/18-20-45/0/model.pt",
    "tower-2",
    "last.ckpt",
    "best.pt",
    "model.safetensors",
    "optimizer.pt",
    "step.pt",
    "writer_3.pkl",
    "stepsize_5.pt",
    "checkpoint_best.pt",
    "step-1234567890123456.pt",
]
COUNTED = [
    ("model.12", 12),
    ("12.pt", 12),
    ("00012.npz", 12),
    ("weights_00012.h5", 12),
    ("weights.03-0.25.hdf5", 3),
    ("cp-0004.ckpt.index", 4),
    ("model_0004999.pth", 4999),
    ("model010000.pt", 10000),
    ("ema_0.9999_010000.pt", 10000),
    ("network-snapshot-000200.pkl", 200),
    ("G_2000.pth", 2000),
    ("0003.model", 3),
    ("model_10.json", 10),
    ("100000/default/d/abc", 100000),
    ("checkpoints/1000/state", 1000),
]
NOT_COUNTED = [
    "resnet50.pt",
    "llama-7b.bin",
    "model-12b.bin",
    "tower-2",
    "data/0001.npy",
    "rank_3.pt",
    "20261128.pt",
    "1795890000.pt",
    "18-20-45.pt",
    "train12/weights/last.pt",
    "multirun/2026-11-28/18-20-45/0/model.pt",
    "mlruns/0/model.pt",
    "weights_0.93.h5",
    "model-00001-of-00002.safetensors",
    "0001.png",
    "model-v2.pt",
    "model7b.pt",
]


@pytest.mark.parametrize(("path", "step", "unit"), WORDED)
def test_number_after_a_word_counts(path: str, step: int, unit: Unit) -> None:
    assert number_in(path) == Numbered(step, unit)


@pytest.mark.parametrize("path", NO_STEP)
def test_other_numbers_do_not(path: str) -> None:
    assert number_in(path) is None


@pytest.mark.parametrize(("path", "number"), COUNTED)
def test_number_at_the_position_of_a_counter_counts_if_nothing_else_does(
    path: str, number: int
) -> None:
    found = counter_in(path)
    assert found is not None
    assert found[1] == number
    assert number_in(path) is None
    assert step_of({path: 1}, held=()) == Numbered(number, Unit.COUNT)


@pytest.mark.parametrize("path", NOT_COUNTED)
def test_other_numbers_are_not_counters(path: str) -> None:
    assert counter_in(path) is None
    assert step_of({path: 1}, held=()) is None


def test_of_several_steps_the_last_written_counts() -> None:
    assert step_of({"step-150.pt": 5, "step-10.pt": 9}, held=()) == Numbered(10, STEP)
    assert step_of({"step-11.pt": 9, "step-10.pt": 9}, held=()) == Numbered(11, STEP)


def test_steps_take_precedence_over_epochs_that_are_written_later() -> None:
    assert step_of({"epoch-3.pt": 9, "step-1200.pt": 5}, held=()) == Numbered(1200, STEP)


def test_files_without_a_number_state_no_step() -> None:
    assert step_of({"best.pt": 3, "train.log": 9}, held=["step-4.pt"]) is None
    assert step_of({}, held=["step-4.pt"]) is None


def test_counter_has_to_increase() -> None:
    ranks = {f"{number}.pt": number for number in range(4)}
    assert step_of(ranks, held=()) is None, "the files of four ranks"
    assert step_of({"2.pt": 9}, held=ranks) is None, "written anew"
    assert step_of({"9.pt": 9, "10.pt": 10}, held=["8.pt"]) == Numbered(10, Unit.COUNT)
    assert step_of({"model_7.pt": 9}, held=["model_6.pt"]) == Numbered(7, Unit.COUNT)
