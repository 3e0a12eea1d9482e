/*
 * spank_wnod: Slurm's own job starter, for Worker Nodes on Demand.
 *
 * In the task that was about to become the user's program it executes the site's starter instead, as the job's user:
 *
 *   STARTER batch|step JOBID ARRAYTASK|- RESTART UID -- ORIGINAL ARGV...
 *
 * slurm_spank_task_init is the place because it is the last hook of the task: the process already has the user's ids,
 * directory, output files and limits (so exit code and output are the job's own), and it comes before any TaskProlog and
 * before `srun --task-prolog`, which are user code. slurm_spank_task_init_privileged would run the starter as root.
 *
 * plugstack.conf options:
 *   starter=PATH   absolute path of the starter (default /usr/libexec/wnod/starter)
 *   env=clean      (the default; for baits) the starter is a child of the task and gets PATH, LANG, WNOD_USER_ENV_FD and
 *                  WNOD_VERDICT_FD only. The user's environment is data: NUL-terminated strings in a memory file open at
 *                  WNOD_USER_ENV_FD, offset 0. An exit code other than 198 and 199 counts only if the starter has written
 *                  something to WNOD_VERDICT_FD: a starter that crashes must not end the user's job. Signals are passed on.
 *   env=user       the starter gets the user's environment as it is and replaces the task (in a VM, where user code may run)
 *   steps=refuse   srun steps end here with a message (the default; for baits)
 *   steps=run      steps go through the starter like the batch script (in a VM)
 *
 * Whatever goes wrong, the user's program does not run here: the task exits 198 (RequeueExit: back to the queue).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

SPANK_PLUGIN(wnod, 1);

/* Slurm takes a negative value only as a failure; its own ESPANK_ constants are positive and would let the task run. */
enum { REFUSED = -1, EXIT_REQUEUE = 198, EXIT_REQUEUE_HOLD = 199, KINDS_ARGC = 7 };

static const char *starter = "/usr/libexec/wnod/starter";
static int clean_env = 1;
static int refuse_steps = 1;

/* To the job's own error file, because its user is the one who asks why. */
static void give_back(const char *what, const char *detail)
{
	dprintf(STDERR_FILENO, "wnod: %s: %s; the job goes back to the queue\n", what, detail);
	_exit(EXIT_REQUEUE);
}

/* 0, or -1 for an option we do not know: a misspelt `env=clean` must not pass for `env=user`. */
static int read_option(const char *option)
{
	if (!strncmp(option, "starter=/", 9))
		starter = option + 8;
	else if (!strcmp(option, "env=clean") || !strcmp(option, "env=user"))
		clean_env = option[4] == 'c';
	else if (!strcmp(option, "steps=refuse") || !strcmp(option, "steps=run"))
		refuse_steps = option[8] == 'f';
	else
		return -1;
	return 0;
}

/* The user's environment as data in a memory file, and the few variables the starter itself may see. */
static char **clean_environment(char **user, int verdict)
{
	static char number[32], pipe_number[32];
	static char *clean[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", number, pipe_number, NULL };
	int fd = memfd_create("wnod-user-env", 0);

	if (fd < 0)
		give_back("memfd_create", strerror(errno));
	for (; user && *user; user++)
		for (size_t done = 0, size = strlen(*user) + 1; done < size;) {
			ssize_t wrote = write(fd, *user + done, size - done);
			if (wrote < 0)
				give_back("cannot keep the job's environment", strerror(errno));
			done += wrote;
		}
	lseek(fd, 0, SEEK_SET);
	snprintf(number, sizeof(number), "WNOD_USER_ENV_FD=%d", fd);
	snprintf(pipe_number, sizeof(pipe_number), "WNOD_VERDICT_FD=%d", verdict);
	return clean;
}

/* Waits for the child and passes every signal on to it: Slurm signals the batch script's process alone. */
static int follow(pid_t child, const sigset_t *all)
{
	int status, number;

	for (;;) {
		pid_t ended = waitpid(child, &status, WNOHANG);
		if (ended == child)
			return status;
		if (ended < 0)
			give_back("waitpid", strerror(errno));
		number = sigwaitinfo(all, NULL);
		if (number > 0 && number != SIGCHLD)
			kill(child, number);
	}
}

/* Ends the task as the starter did, if the starter meant it. */
static void end_like(int status, int verdict)
{
	char byte;
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

	if (code == EXIT_REQUEUE || code == EXIT_REQUEUE_HOLD)
		_exit(code);
	if (read(verdict, &byte, 1) != 1)
		give_back(starter, WIFEXITED(status) ? "ended without a verdict" : strsignal(WTERMSIG(status)));
	if (code < 0) {
		sigset_t none;

		sigemptyset(&none);
		signal(WTERMSIG(status), SIG_DFL);
		sigprocmask(SIG_SETMASK, &none, NULL);
		raise(WTERMSIG(status));
	}
	_exit(code < 0 ? 128 + WTERMSIG(status) : code);
}

/* Runs the starter beside the task, so that whatever becomes of it the task can still give the job back. */
static void run_starter(char **argv, char **user)
{
	int verdict[2];
	sigset_t all, before;
	pid_t child;

	if (pipe2(verdict, O_NONBLOCK) < 0)
		give_back("pipe", strerror(errno));
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	signal(SIGCHLD, SIG_DFL);
	child = fork();
	if (child < 0)
		give_back("fork", strerror(errno));
	if (child == 0) {
		close(verdict[0]);
		sigprocmask(SIG_SETMASK, &before, NULL);
		execve(starter, argv, clean_environment(user, verdict[1]));
		give_back(starter, strerror(errno));
	}
	close(verdict[1]);
	end_like(follow(child, &all), verdict[0]);
}

static uint32_t number_of(spank_t sp, spank_item_t item, const char *name)
{
	uint32_t value = 0;

	if (spank_get_item(sp, item, &value) != ESPANK_SUCCESS)
		give_back("Slurm does not tell", name);
	return value;
}

/* Slurm 22.05 gives S_SLURM_RESTART_COUNT as 0 for batch scripts; what it puts into the job's environment is right. A
 * user can forge it for a first run only, and then the LRMS (on the bait) or the binding (in the VM) says no. */
static uint32_t restarts_of(spank_t sp)
{
	char text[16] = "";
	uint32_t restarts = 0;

	spank_get_item(sp, S_SLURM_RESTART_COUNT, &restarts);
	if (!restarts && spank_getenv(sp, "SLURM_RESTART_COUNT", text, sizeof(text)) == ESPANK_SUCCESS)
		restarts = strtoul(text, NULL, 10);
	return restarts;
}

static void print_run(spank_t sp, char words[4][16])
{
	uint32_t array = number_of(sp, S_JOB_ARRAY_ID, "the array id");
	uid_t uid = 0;

	/* An array task is named ARRAY and TASK everywhere in wnod: scontrol takes the raw id of one task for the
	 * whole array. */
	snprintf(words[0], 16, "%u", array ? array : number_of(sp, S_JOB_ID, "the job id"));
	strcpy(words[1], "-");
	if (array)
		snprintf(words[1], 16, "%u", number_of(sp, S_JOB_ARRAY_TASK_ID, "the array task"));
	snprintf(words[2], 16, "%u", restarts_of(sp));
	if (spank_get_item(sp, S_JOB_UID, &uid) != ESPANK_SUCCESS || uid != getuid())
		give_back("the task does not run as the job's user", "refused");
	snprintf(words[3], 16, "%u", (unsigned)uid);
}

/* Steps end before their task exists: a task that only fails in task_init is still followed by the user's own
 * `srun --task-epilog`. The extern step (PrologFlags=Contain) has no task and must come up. */
static int is_refused_step(spank_t sp)
{
	uint32_t step = SLURM_BATCH_SCRIPT;

	if (!refuse_steps || spank_context() != S_CTX_REMOTE)
		return 0;
	if (spank_get_item(sp, S_JOB_STEPID, &step) != ESPANK_SUCCESS)
		return 1;
	return step != SLURM_BATCH_SCRIPT && step != SLURM_EXTERN_CONT;
}

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	for (int i = 0; i < ac; i++)
		if (read_option(av[i])) {
			slurm_error("wnod: unknown option %s in plugstack.conf (starter=/..., env=, steps=)", av[i]);
			return REFUSED;
		}
	if (is_refused_step(sp)) {
		slurm_error("wnod: this node only passes batch jobs on: use sbatch, and srun inside the job");
		return REFUSED;
	}
	return ESPANK_SUCCESS;
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	char words[4][16], **argv = NULL, **env = NULL, **out;
	int argc = 0, batch = number_of(sp, S_JOB_STEPID, "the step") == SLURM_BATCH_SCRIPT;

	(void)ac;
	(void)av;
	if (!batch && refuse_steps)
		give_back("this node only passes batch jobs on", "use sbatch, and srun inside the job");
	if (spank_get_item(sp, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_ENV, &env) != ESPANK_SUCCESS)
		give_back("Slurm does not tell", "the job's program");
	print_run(sp, words);
	out = calloc(argc + KINDS_ARGC + 1, sizeof(*out));
	if (!out)
		give_back("no memory", "for the job's arguments");
	out[0] = (char *)starter;
	out[1] = batch ? "batch" : "step";
	for (int i = 0; i < 4; i++)
		out[2 + i] = words[i];
	out[6] = "--";
	memcpy(out + KINDS_ARGC, argv, argc * sizeof(*out));
	if (clean_env)
		run_starter(out, env);
	execve(starter, out, env);
	give_back(starter, strerror(errno));
	return REFUSED;
}
