"""What can be done along with a training run, at its four events."""
from cnn.training.callbacks.base import Callback, TrainingDiverged
from cnn.training.callbacks.best import BestCheckpoint, EarlyStopping
from cnn.training.callbacks.checkpoints import Checkpoint
from cnn.training.callbacks.logs import CSVLog, JSONLLog, TensorBoard
from cnn.training.callbacks.progress import EpochLog, Progress
from cnn.training.callbacks.pruning import OptunaPruning
from cnn.training.callbacks.stopping import Interrupted, StopOnSignal, TimeLimit

__all__ = ["BestCheckpoint", "CSVLog", "Callback", "Checkpoint", "EarlyStopping", "EpochLog", "Interrupted", "JSONLLog",
           "OptunaPruning", "Progress", "StopOnSignal", "TensorBoard", "TimeLimit", "TrainingDiverged"]
