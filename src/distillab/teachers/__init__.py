"""Sources of a teacher's signal, behind one protocol: a local model, or a cache."""

from distillab.teachers.local import LocalTeacher
from distillab.teachers.protocol import Generates, SignalSource, TeacherIdentity
from distillab.teachers.signals import FullLogits, TeacherSignal

__all__ = ["FullLogits", "Generates", "LocalTeacher", "SignalSource", "TeacherIdentity", "TeacherSignal"]
