"""A fake PBS in a folder, for tests: it answers like OpenPBS 23.06, and runs the jobs.

The commands in this folder share it. All files are in the folder that FAKE_PBS names: `state.json` under a lock,
scripts and outputs under `spool/`, and `knobs.json`, by which a test makes the server misbehave (see KNOBS).
Each job has a supervisor, a process of its own that plays server and node for it. An array is a parent, `15[].pbsnode`,
which has `indices` and no supervisor, and a job for each task, such as `15[3].pbsnode`, which has its `index`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time

SERVER = "pbsnode"
LIVE = ("Q", "R", "E", "H", "B")
UNKNOWN, FINISHED, TOO_LARGE, FINISHED_TASK, HOOK, NOT_ENABLED = 153, 35, 3, 55, 32, 173

KNOBS = {
    "down": False,  # no command reaches the server
    "history": True,  # keep ended jobs; without, they are forgotten
    "hang": 0,  # seconds that every command takes
    "fail_after_accept": False,  # qsub accepts the job, but reports an error
    "accept_late": None,  # qsub never answers; the job appears this many seconds later
    "stopped": False,  # jobs stay queued
    "running": 8,  # most running jobs
    "ncpus": 16,  # of the largest node
    "max_jobs": None,  # qsub refuses more live jobs
    "queues": ["workq"],
    "disabled": [],  # queues that are not enabled
    "routes": {},  # routing queue -> destinations; it accepts all jobs, and those they reject disappear
    "hook": None,  # the message of a site's hook that refuses each submission
    "chatter": "",  # a line on stderr in each answer, as from a library that cannot be preloaded
    "tasks_missing": False,  # running tasks are missing from their array, as after `qterm -t immediate`
    "max_array_size": None,  # most tasks of an array: the server's limit
    "queue_array_size": None,  # and the queue's limit
    "late": 0,  # seconds by which the end of a walltime is detected late
    "kill_delay": 1,  # seconds from SIGTERM to SIGKILL
}


class Server:
    """The state in a folder. `jobs()` reads it, `change()` changes it under the lock."""

    def __init__(self, folder=None):
        self.folder = str(folder or os.environ["FAKE_PBS"])

    def path(self, name):
        return os.path.join(self.folder, name)

    def knob(self, name):
        try:
            with open(self.path("knobs.json")) as file:
                return json.load(file).get(name, KNOBS[name])
        except FileNotFoundError:
            return KNOBS[name]

    @contextlib.contextmanager
    def change(self):
        with open(self.path("lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            yield state
            with open(self.path("state.new"), "w") as file:
                json.dump(state, file)
            os.replace(self.path("state.new"), self.path("state.json"))

    def read(self):
        try:
            with open(self.path("state.json")) as file:
                return json.load(file)
        except FileNotFoundError:
            return {"next": 1, "jobs": {}}

    def jobs(self):
        return self.read()["jobs"]

    def update(self, job_id, **changes):
        with self.change() as state:
            if job_id in state["jobs"]:
                state["jobs"][job_id].update(changes)

    def accept(self, job, script):
        """Queue a job: keep a copy of its script, start its supervisor, return its ID."""
        with self.change() as state:
            job_id = f"{state['next']}{'[]' if 'indices' in job else ''}.{SERVER}"
            state["next"] += 1
            os.makedirs(self.path("spool"), exist_ok=True)
            with open(self.path(f"spool/{job_id}.SC"), "w") as file:
                file.write(script)
            state["jobs"][job_id] = job
            for index in range(job.get("indices", 0)):
                task_id = job_id.replace("[]", f"[{index}]")
                supervisor = detach(lambda task_id=task_id: supervise(self, task_id))
                task = {**job, "array": job_id, "index": index, "supervisor": supervisor}
                del task["indices"]
                state["jobs"][task_id] = task
            if "indices" in job:
                return job_id
            parent = job.get("depend")
            if parent and state["jobs"].get(full_id(parent), {"job_state": "F"})["job_state"] not in LIVE:
                job.update(job_state="F", substate=92, Hold_Types="s")
            else:
                job["supervisor"] = detach(lambda: supervise(self, job_id))
        return job_id

    def end(self, job_id, **changes):
        with self.change() as state:
            job = state["jobs"].get(job_id)
            if job and "array" in job:
                self.expire(state["jobs"], job, changes)
            elif not self.knob("history"):
                state["jobs"].pop(job_id, None)
            elif job:
                job.update(changes, job_state="F")

    def expire(self, jobs, task, changes=None):
        """A task has ended. It is listed until its array has ended; without history, its exit status is not kept."""
        forgotten = {"comment": "Subjob finished", "run_count": None}
        task.update(forgotten if changes is None or not self.knob("history") else changes, job_state="X")
        array = task["array"]
        tasks = [one for one in jobs.values() if one.get("array") == array]
        if all(one["job_state"] == "X" for one in tasks):
            jobs[array]["substate"] = 91 if jobs[array].get("order") == "delete" else 92
            for job_id in [one for one, job in jobs.items() if array in (one, job.get("array"))]:
                if self.knob("history"):
                    jobs[job_id]["job_state"] = "F"
                else:
                    del jobs[job_id]

    def crash(self, job_id):
        """The node crashes: no process of the job is left, and the server forgets it; for a task, it reports why."""
        with self.change() as state:
            job = state["jobs"][job_id]
            if "array" in job:
                self.expire(state["jobs"], job, {"substate": 91, "Exit_status": -20})
            else:
                del state["jobs"][job_id]
        for pid in (job.get("supervisor"), *in_session(job.get("session"))):
            kill(pid, signal.SIGKILL)

    def rerun(self, job_id, orphan=False):
        """The server restarts the job with its ID; with `orphan`, its old processes keep running."""
        self.update(job_id, order="abandon" if orphan else "rerun")

    def exceed_memory(self, job_id):
        """The node kills a running job that uses more memory than it requested."""
        self.update(job_id, order="exceed_memory")

    def hold(self, job_id):
        """Like qhold. The queued tasks of a held array stay in state Q; their Hold_Types shows it."""
        with self.change() as state:
            comment = f"Job held by {state['jobs'][job_id]['user']} on {time.ctime()}"
            state["jobs"][job_id].update(job_state="H", substate=20, Hold_Types="u", comment=comment)
            for task in state["jobs"].values():
                if task.get("array") == job_id and task["job_state"] == "Q":
                    task.update(Hold_Types="u", comment=comment)

    def release(self, job_id):
        """Like qrls."""
        with self.change() as state:
            tasks = [one for one in state["jobs"].values() if one.get("array") == job_id]
            begun = any(one["job_state"] != "Q" for one in tasks)
            state["jobs"][job_id].update(job_state="B" if begun else "Q", substate=70 if begun else 10, Hold_Types="n")
            for task in tasks:
                task.update(Hold_Types="n")


def counts(jobs):
    """The number of live jobs; each task of an array counts."""
    return sum(job["job_state"] in LIVE and "indices" not in job for job in jobs.values())


def full_id(word):
    return word if "." in word else f"{word}.{SERVER}"


def detach(work):
    """Run `work` in a new process that outlives this one; return its process ID."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.closerange(3, 64)
        work()
    finally:
        os._exit(0)


def kill(pid, how):
    with contextlib.suppress(ProcessLookupError, TypeError):
        os.kill(pid, how)


def in_session(session):
    """The processes of a session: a PBS node finds the processes of a job in this way."""
    found = []
    for name in os.listdir("/proc") if session else ():
        with contextlib.suppress(ValueError, ProcessLookupError):
            if os.getsid(int(name)) == session:
                found.append(int(name))
    return found


def supervise(server, job_id):
    """Supervises one job from queue to end, including restarts."""
    while (job := wait_for_start(server, job_id)) is not None:
        child = start(server, job_id, job)
        ended = watch(server, job_id, child, job)
        if ended is None:
            server.update(job_id, job_state="Q", substate=10, order=None, session=None)
            continue
        for pid in in_session(child):
            kill(pid, signal.SIGKILL)
        server.update(job_id, job_state="E", substate=51)
        with contextlib.suppress(OSError):
            shutil.copy(server.path(f"spool/{job_id}.OU"), job["output"])
        server.end(job_id, **ended)
        return


def wait_for_start(server, job_id):
    """Wait until the job may run, and mark it as running; None if it was deleted."""
    while True:
        with server.change() as state:
            job = state["jobs"].get(job_id)
            if job is None or job["job_state"] in "FX":
                return None
            if job.get("order") == "delete":
                break
            running = sum(other["job_state"] == "R" for other in state["jobs"].values())
            parent = state["jobs"].get(full_id(job.get("depend") or ""), {"job_state": "F", "Exit_status": 0})
            siblings = [one for one in state["jobs"].values() if one.get("array", "") == job.get("array")]
            at_once = sum(one["job_state"] == "R" for one in siblings)
            turn = not any(one["job_state"] == "Q" and one["index"] < job["index"] for one in siblings)
            if job["ncpus"] > server.knob("ncpus"):
                wanted, there = job["ncpus"], server.knob("ncpus")
                job["comment"] = (
                    f"Can Never Run: Insufficient amount of resource: ncpus (R: {wanted} A: {there} T: {there})"
                )
            elif parent["job_state"] == "F" and parent.get("Exit_status") != 0:
                break
            elif (
                job["job_state"] == "Q"
                and job["Hold_Types"] == "n"
                and not server.knob("stopped")
                and running < server.knob("running")
                and parent["job_state"] == "F"
                and turn
                and at_once < job.get("max_run_subjobs", len(siblings) + 1)
            ):
                begin_array(state["jobs"], job)
                job.update(job_state="R", substate=42, run_count=job.get("run_count", 0) + 1, started=time.time())
                job["comment"] = f"Job run at {time.strftime('%a %b %d at %H:%M')} on ({SERVER}:ncpus={job['ncpus']})"
                return dict(job)
        time.sleep(0.05)
    server.end(job_id, substate=91, comment=f"{job.get('comment', 'Job')} and terminated")
    return None


def begin_array(jobs, task):
    """A task of an array starts: mark the array as begun, and add the index to the path of the task's output."""
    if "array" in task:
        parent = jobs[task["array"]]
        parent.update(job_state="B", substate=70, comment=f"Job Array Began at {time.strftime('%a %b %d at %H:%M')}")
        task["output"] = task["output"].replace("^array_index^", str(task["index"]))


def start(server, job_id, job):
    """Run the script in a new session, with only a job's environment."""
    environment = {
        "HOME": os.path.expanduser("~"), "USER": job["user"], "LOGNAME": job["user"], "SHELL": "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": server.path("spool"), "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_JOBID": job_id, "PBS_JOBNAME": job["Job_Name"], "PBS_QUEUE": job["queue"], "PBS_O_WORKDIR": job["cwd"],
        "PBS_O_HOST": SERVER, "NCPUS": str(job["ncpus"]), "OMP_NUM_THREADS": str(job["ncpus"]),
    }  # fmt: skip
    if "array" in job:
        environment.update(PBS_ARRAY_INDEX=str(job["index"]), PBS_ARRAY_ID=job["array"])
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.umask(job["umask"])
            output = os.open(server.path(f"spool/{job_id}.OU"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(environment["HOME"])
            os.execve("/bin/bash", ["bash", server.path(f"spool/{job.get('array', job_id)}.SC")], environment)
        finally:
            os._exit(127)
    server.update(job_id, session=child, sessions=[*job.get("sessions", ()), child])
    return child


def watch(server, job_id, child, job):
    """Wait for the end: the job's attributes then, or None if it must be restarted."""
    limit, over, deadline, verdict = job["walltime"], False, None, {}
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        now = time.time()
        if pid:
            code = os.waitstatus_to_exitcode(status)
            exit_status = code if code >= 0 else 256 - code
            said = "finished" if exit_status == 0 else "failed"
            usual = {
                "substate": 93 if exit_status else 92,
                "Exit_status": exit_status,
                "comment": f"{job['comment']} and {said}",
            }
            return {**usual, **verdict}
        order = server.jobs().get(job_id, {}).get("order")
        if order == "abandon":
            return None
        if order == "rerun":
            for one in in_session(child):
                kill(one, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        if deadline is None and order == "delete":
            verdict = {"substate": 91, "Exit_status": 271}
            verdict["comment"] = f"{job['comment']} and terminated by {job['user']}@{SERVER}"
            over = True
        elif deadline is None and order == "exceed_memory":
            verdict = {
                "substate": 93,
                "Exit_status": -27,
                "comment": f"{job['comment']} and exceeded resource mem",
            }
            over = True
        elif deadline is None and now > job["started"] + limit + server.knob("late"):
            verdict = {
                "substate": 93,
                "Exit_status": -29,
                "comment": f"{job['comment']} and exceeded resource walltime",
            }
            with open(server.path(f"spool/{job_id}.OU"), "a") as output:
                output.write(f"=>> PBS: job killed: walltime {int(now - job['started'])} exceeded limit {limit}\n")
            over = True
        if over and deadline is None:
            deadline = now + server.knob("kill_delay")
            for one in in_session(child):
                kill(one, signal.SIGTERM)
        elif deadline is not None and now > deadline:
            for one in in_session(child):
                kill(one, signal.SIGKILL)
        time.sleep(0.05)


def reached(command, server, code, *, json_too=False):
    """If the server is down, exit like a command that cannot reach it."""
    with open(server.path("commands"), "a") as log:
        log.write(" ".join([command, *sys.argv[1:]]) + "\n")
    time.sleep(server.knob("hang"))
    if server.knob("chatter"):
        print(server.knob("chatter"), file=sys.stderr)
    if server.knob("down") or os.path.exists(server.path("crashed")):
        if json_too:
            print(document({}))
        if command == "qdel":
            fail("Connection refused", f"Couldn't connect to cluster: {SERVER}", code=code)
        fail("Connection refused", f"{command}: cannot connect to server {SERVER} (errno=15010)", code=code)


def document(jobs):
    """The output of `qstat -F json`: only the first job, or the first array with its tasks, as in OpenPBS 23.06."""
    document = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
    number = next(iter(jobs), "").partition(".")[0].partition("[")[0]
    if jobs:
        document["Jobs"] = {one: job for one, job in jobs.items() if one.startswith((f"{number}.", f"{number}["))}
    return json.dumps(document, indent="\t", separators=(",", ":\t"))


def fail(*lines, code):
    print(*lines, sep="\n", file=sys.stderr)
    sys.exit(code)
