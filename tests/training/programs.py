"""Tiny trainings with the real frameworks, whose result shows every bit that a resume loses."""

LIGHTNING = '''
import sys, time
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from runctl import training
from runctl.hooks.lightning import RunctlCallback, last_checkpoint

PACE = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
EVERY = float(sys.argv[2]) if len(sys.argv) > 2 else None

class Batches:
    """Batches in a new order each epoch, which go on where they were: a resumable loader."""
    def __init__(self, count):
        self.count, self.epoch, self.position = count, 0, 0
    def __len__(self):
        return self.count
    def __iter__(self):
        if self.position == self.count:
            self.epoch, self.position = self.epoch + 1, 0
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch))
        while self.position < self.count:
            number, self.position = self.position, self.position + 1
            data = torch.Generator().manual_seed(int(order[number]))
            yield torch.randn(8, 4, generator=data), torch.randn(8, 1, generator=data)
    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}
    def load_state_dict(self, state):
        self.epoch, self.position = state["epoch"], state["position"]

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
    def training_step(self, batch, index):
        time.sleep(PACE)
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("loss", loss)
        print("step", self.global_step + 1, flush=True)
        return loss
    def validation_step(self, batch, index):
        time.sleep(PACE)
        print("validating", self.global_step, index, flush=True)
        self.log("val_loss", torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1]))
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

torch.set_num_threads(1)
seed_everything(3, verbose=False)
model = Model()
trainer = Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=5,
    val_check_interval=5, num_sanity_val_steps=0, callbacks=[RunctlCallback(every=EVERY)])
found = last_checkpoint()
print("from", found and found[-14:], flush=True)
trainer.fit(model, Batches(10), Batches(3), ckpt_path=found)
training.output_dir.mkdir(exist_ok=True)
(training.output_dir / "weights").write_text(
    str([value.tolist() for value in model.state_dict().values()]))
print("done", trainer.global_step, flush=True)
'''

TRANSFORMERS = """
import os, sys, time
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer
from transformers import TrainingArguments, set_seed
from runctl import training
from runctl.hooks.transformers import RunctlCallback, last_checkpoint

PACE = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
EVERY = float(sys.argv[2]) if len(sys.argv) > 2 else None

class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, index):
        made = torch.Generator().manual_seed(index)
        return {"input_ids": torch.randint(0, 30, (6,), generator=made),
                "labels": torch.tensor(index % 2)}

class Paced(Trainer):
    def training_step(self, *args, **kwargs):
        time.sleep(PACE)
        print("step", self.state.global_step + 1, flush=True)
        return super().training_step(*args, **kwargs)
    def _save_rng_state(self, folder):
        if os.environ.get("SLOW_SAVE") == str(self.state.global_step):
            print("saving", flush=True)
            time.sleep(60)
        super()._save_rng_state(folder)

torch.set_num_threads(1)
set_seed(3)
model = BertForSequenceClassification(BertConfig(
    vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
arguments = TrainingArguments(
    output_dir=str(training.checkpoint_dir), num_train_epochs=3, per_device_train_batch_size=4,
    save_steps=8, save_total_limit=2, logging_steps=5, report_to=[], disable_tqdm=True,
    use_cpu=True, learning_rate=0.01, dataloader_pin_memory=False)
trainer = Paced(model, arguments, train_dataset=Sentences(), callbacks=[RunctlCallback(EVERY)])
found = last_checkpoint()
print("from", found and found.rsplit("-")[-1], flush=True)
trainer.train(resume_from_checkpoint=found)
if training.should_stop():
    sys.exit()
training.output_dir.mkdir(exist_ok=True)
(training.output_dir / "weights").write_text(
    str([value.tolist() for value in model.state_dict().values()]))
print("done", trainer.state.global_step, flush=True)
"""
