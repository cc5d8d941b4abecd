"""Sources of a teacher's signal: one protocol, so that a run moves between teachers by one line of its recipe."""

from distillab.teachers.local import LocalTeacher
from distillab.teachers.protocol import Generates, SignalSource, TeacherIdentity
from distillab.teachers.signals import FullLogits, TeacherSignal

__all__ = ["FullLogits", "Generates", "LocalTeacher", "SignalSource", "TeacherIdentity", "TeacherSignal"]
