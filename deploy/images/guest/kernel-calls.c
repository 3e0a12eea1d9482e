/* What no shell does for the guest's agent and its gate: two calls to the kernel that no program of a POSIX system makes,
 * a file of which six programs would be needed, and an environment kept as it is: a shell leaves out what it cannot
 * name (a function that bash has exported), and its own variables replace those of the same name.
 * Static and small, because a guest that was just restored waits for it:
 *   kernel-calls clock SECONDS[.FRACTION]   steps the clock
 *   kernel-calls seed [DEVICE] <<BASE64     mixes the bytes into the kernel's pool and has its generator start anew;
 *                                           without that, copies of one saved guest would draw the same numbers
 *   kernel-calls secret MODE OWNER FILE <<BASE64    makes the file anew, with this mode (octal) and owner, in one moment
 *   kernel-calls as USER PROGRAM [ARGUMENT...]      becomes the program, as this user and in no group but his own
 *   kernel-calls gate STARTER [ARGUMENT...]         becomes the script STARTER, with few variables (it is in its first
 *                                                   line); the environment is kept in a memory file, open at WNOD_KEPT
 *   kernel-calls go PROGRAM [ARGUMENT...]           becomes the user's program, with the environment kept, found on its
 *                                                   PATH as Slurm would find it
 * Exit status 0 if all was done; of gate and go 199, the job goes back to the queue, if not. What is secret is read from standard input and is never an argument. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/random.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef RNDRESEEDCRNG
#define RNDRESEEDCRNG _IO('R', 0x07)
#endif
#ifndef SHELL
#define SHELL "/usr/libexec/wnod/busybox"
#endif
enum { MOST = 64, LONGEST = 8192, GIVE_BACK = 199 };

static int set_clock(const char *text)
{
    struct timespec now = {0, 0};
    char *rest;
    long digit = 100000000;

    now.tv_sec = strtoll(text, &rest, 10);
    if (*rest == '.')
        for (rest++; isdigit((unsigned char)*rest); rest++, digit /= 10)
            now.tv_nsec += (*rest - '0') * digit;
    return rest == text || *rest || now.tv_sec <= 0 || clock_settime(CLOCK_REALTIME, &now);
}

static int value_of(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* The number of bytes, or -1 for what is no base64 of at most `most` bytes. */
static int decode(const char *text, unsigned char *bytes, int most)
{
    unsigned held = 0;
    int bits = 0, count = 0;

    for (; *text && *text != '=' && *text != '\n'; text++) {
        int value = value_of(*text);

        if (value < 0)
            return -1;
        held = held << 6 | (unsigned)value;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            if (count == most)
                return -1;
            bytes[count++] = (unsigned char)(held >> bits);
        }
    }
    return count;
}

static int mix_in(const char *device)
{
    struct {
        struct rand_pool_info head;
        unsigned char bytes[MOST];
    } fresh = {{0, 0}, {0}};
    char text[2 * MOST] = "";
    ssize_t length = read(0, text, sizeof text - 1);
    int count = length > 0 ? decode(text, fresh.bytes, MOST) : -1;
    int file = count < 32 ? -1 : open(device, O_WRONLY | O_APPEND);

    if (file < 0)
        return 1;
    fresh.head.buf_size = count;
    fresh.head.entropy_count = count * 8;
    /* Where bytes may not be credited they are still mixed in. */
    if (ioctl(file, RNDADDENTROPY, &fresh) && write(file, fresh.bytes, (size_t)count) != count)
        return 1;
    return ioctl(file, RNDRESEEDCRNG) ? 2 : 0;
}

/* The user's entry, or NULL: from the file, as nothing else may be asked by a static program. */
static struct passwd *entry_of(const char *name)
{
    FILE *accounts = fopen("/etc/passwd", "r");
    struct passwd *account = NULL;

    while (accounts && (account = fgetpwent(accounts)) && strcmp(account->pw_name, name))
        ;
    if (accounts)
        fclose(accounts);
    return account;
}

static int become(const char *name, char **program)
{
    struct passwd *user = entry_of(name);

    if (!user || setgroups(0, NULL) || setgid(user->pw_gid) || setuid(user->pw_uid))
        return 1;
    execv(program[0], program);
    return 127;
}

/* The whole of standard input as text; -1 if it is too long. */
static int read_all(char *text, size_t size)
{
    size_t length = 0;
    ssize_t got;

    while ((got = read(0, text + length, size - 1 - length)) > 0)
        length += (size_t)got;
    text[length] = '\0';
    return got < 0 || length == size - 1 ? -1 : 0;
}

static int write_secret(const char *mode, const char *owner, const char *path)
{
    static char text[LONGEST], beside[LONGEST];
    static unsigned char bytes[LONGEST];
    struct passwd *user = entry_of(owner);
    int count = read_all(text, sizeof text) ? -1 : decode(text, bytes, sizeof bytes), file;

    if (!user || count < 1 || snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside)
        return 1;
    unlink(beside);
    file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (file < 0 || write(file, bytes, (size_t)count) != count)
        return 1;
    if (fchown(file, user->pw_uid, (gid_t)-1) || fchmod(file, (mode_t)strtol(mode, NULL, 8)))
        return 1;
    return close(file) || rename(beside, path);
}

static int give_back(const char *what)
{
    dprintf(2, "wnod: the job was given back to the queue: %s: %s\n", what, strerror(errno));
    return GIVE_BACK;
}

/* The open memory file with every string of the environment, each with its NUL; -1 if there is no memory. */
static int keep_environment(void)
{
    int kept = memfd_create("wnod-environment", 0);

    for (char **each = environ; kept >= 0 && *each; each++)
        for (size_t done = 0, size = strlen(*each) + 1; done < size;) {
            ssize_t wrote = write(kept, *each + done, size - done);

            if (wrote < 0)
                return -1;
            done += (size_t)wrote;
        }
    return kept;
}

/* The starter is told of the user's environment only whether it is to be a login's. */
static int ask_gate(char **words)
{
    static char kept_at[32];
    static char *few[] = {"PATH=/usr/bin:/bin", kept_at, NULL, NULL};
    int kept = keep_environment();

    if (kept < 0)
        return give_back("its environment cannot be kept");
    snprintf(kept_at, sizeof kept_at, "WNOD_KEPT=%d", kept);
    for (char **each = environ; *each; each++)
        if (!strcmp(*each, "WNOD_GET_USER_ENV=1"))
            few[2] = *each;
    words[0] = SHELL;
    words[1] = "sh";
    execve(SHELL, words, few);
    return give_back(SHELL);
}

/* The environment that was kept, without our own word in it; NULL if it cannot be read. HOME is what the starter has
 * found, where the user's environment says nothing of it. */
static char **kept_environment(int kept)
{
    off_t size = lseek(kept, 0, SEEK_END);
    char *text = size < 0 ? NULL : malloc((size_t)size + 1), **list, *home = getenv("HOME");
    size_t count = 0, used = 0;

    if (!text || pread(kept, text, (size_t)size, 0) != size || close(kept))
        return NULL;
    for (off_t at = 0; at < size; at++)
        count += !text[at];
    if (!(list = calloc(count + 2, sizeof *list)))
        return NULL;
    for (char *each = text; each < text + size; each += strlen(each) + 1) {
        if (!strncmp(each, "HOME=", 5))
            home = NULL;
        if (strncmp(each, "WNOD_GET_USER_ENV=", 18))
            list[used++] = each;
    }
    if (home)
        list[used++] = home - 5; /* "HOME=" is before it */
    return list;
}

static int go(char **program)
{
    const char *kept = getenv("WNOD_KEPT");
    char **list = kept ? kept_environment(atoi(kept)) : NULL;

    if (!list)
        return give_back("its environment is not to be had any more");
    environ = list;
    execvp(program[0], program);
    dprintf(2, "wnod: %s: %s\n", program[0], strerror(errno));
    return errno == ENOENT ? 127 : 126;
}

int main(int count, char **words)
{
    if (count >= 3 && !strcmp(words[1], "gate"))
        return ask_gate(words);
    if (count >= 3 && !strcmp(words[1], "go"))
        return go(words + 2);
    if (count >= 4 && !strcmp(words[1], "as"))
        return become(words[2], words + 3);
    if (count == 5 && !strcmp(words[1], "secret"))
        return write_secret(words[2], words[3], words[4]);
    if (count == 3 && !strcmp(words[1], "clock"))
        return set_clock(words[2]);
    if (count >= 2 && !strcmp(words[1], "seed"))
        return mix_in(count > 2 ? words[2] : "/dev/urandom");
    return 64;
}
