"""Workspaces: what a person brings, labels and trains, kept in one folder and a database."""

from engine.workspace.intake import take_in as take_in
from engine.workspace.keeping import back_up as back_up
from engine.workspace.keeping import check as check
from engine.workspace.keeping import count_older as count_older
from engine.workspace.keeping import erase_cases as erase_cases
from engine.workspace.keeping import erase_older as erase_older
from engine.workspace.keeping import erase_patient as erase_patient
from engine.workspace.keeping import keep_cases_days as keep_cases_days
from engine.workspace.keeping import learned_from as learned_from
from engine.workspace.keeping import look_after as look_after
from engine.workspace.keeping import restore as restore
from engine.workspace.queue import Queue as Queue
from engine.workspace.queue import Work as Work
from engine.workspace.queue import carry_out as carry_out
from engine.workspace.space import Workspace as Workspace
from engine.workspace.space import workspace_folder as workspace_folder
from engine.workspace.values import Added as Added
from engine.workspace.values import Case as Case
from engine.workspace.values import Intake as Intake
from engine.workspace.values import Job as Job
