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
 *   env=clean      the starter gets PATH, LANG and WNOD_USER_ENV_FD only (the default; for baits). The user's environment is
 *                  data: NUL-terminated strings in a memory file open at descriptor WNOD_USER_ENV_FD, at offset 0.
 *   env=user       the starter gets the user's environment as it is (in a VM, where user code may run)
 *   steps=refuse   srun steps end here with a message (the default; for baits)
 *   steps=run      steps go through the starter like the batch script (in a VM)
 *
 * Whatever goes wrong, the user's program does not run here: the task exits 198 (RequeueExit: back to the queue).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

SPANK_PLUGIN(wnod, 1);

enum { EXIT_REQUEUE = 198, KINDS_ARGC = 7 };

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
static char **clean_environment(char **user)
{
	static char number[32];
	static char *clean[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", number, NULL };
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
	return clean;
}

static uint32_t number_of(spank_t sp, spank_item_t item, const char *name)
{
	uint32_t value = 0;

	if (spank_get_item(sp, item, &value) != ESPANK_SUCCESS)
		give_back("Slurm does not tell", name);
	return value;
}

static void print_run(spank_t sp, char words[4][16])
{
	uint32_t restarts = 0;
	uid_t uid = 0;

	snprintf(words[0], 16, "%u", number_of(sp, S_JOB_ID, "the job id"));
	strcpy(words[1], "-");
	if (number_of(sp, S_JOB_ARRAY_ID, "the array id"))
		snprintf(words[1], 16, "%u", number_of(sp, S_JOB_ARRAY_TASK_ID, "the array task"));
	spank_get_item(sp, S_SLURM_RESTART_COUNT, &restarts);
	snprintf(words[2], 16, "%u", restarts);
	if (spank_get_item(sp, S_JOB_UID, &uid) != ESPANK_SUCCESS || uid != getuid())
		give_back("the task does not run as the job's user", "refused");
	snprintf(words[3], 16, "%u", (unsigned)uid);
}

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	(void)sp;
	for (int i = 0; i < ac; i++)
		if (read_option(av[i])) {
			slurm_error("wnod: unknown option %s in plugstack.conf (starter=/..., env=, steps=)", av[i]);
			return ESPANK_BAD_ARG;
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
	execve(starter, out, clean_env ? clean_environment(env) : env);
	give_back(starter, strerror(errno));
	return ESPANK_ERROR;
}
