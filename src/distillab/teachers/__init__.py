"""Where signals come from: one Protocol, so that a run moves between teachers by one line of config."""

from distillab.teachers.local import LocalTeacher
from distillab.teachers.protocol import Teacher, TeacherCapabilities
from distillab.teachers.signals import FullLogits, TeacherSignal

__all__ = ["FullLogits", "LocalTeacher", "Teacher", "TeacherCapabilities", "TeacherSignal"]
