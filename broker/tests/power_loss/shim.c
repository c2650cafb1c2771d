/* Power loss, as a library to preload: it keeps, beside a folder, what of the folder would be left
 * if the power went now.
 *
 * Environment: POWER_LOSS_LIVE is the folder the program writes to, POWER_LOSS_KEPT the one that
 * holds what is durable. With POWER_LOSS_STRICT names are durable by their folder's fsync alone,
 * with POWER_LOSS_LIES journals are not kept at all. A file's content is durable up to its last
 * fsync; a name is durable once its folder was synced, or, as on ext4 and XFS, once the file under
 * it was synced after being created. Renames and removals become durable with their folder's
 * fsync.
 *
 * fsync of a file copies what changed since the last one to the kept file of its inode. fsync of a
 * folder brings the kept folder's names in line with the live one. All of it happens under one
 * lock before the call returns, so whatever the program was told to be durable is in the kept
 * folder; when the process is killed, that folder is what the disk would have.
 *
 * Not modelled: writes through mmap, and what a disk does with a half-written sector. The test
 * tears the un-synced tail itself, from the live folder.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *live, *kept;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void begin(void) {
  live = getenv("POWER_LOSS_LIVE");
  kept = getenv("POWER_LOSS_KEPT");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
}

static void die(const char *what, const char *path) {
  fprintf(stderr, "power loss: %s %s: %s\n", what, path, strerror(errno));
  abort();
}

/* The path of an open file inside the live folder, or 0. */
static int path_of(int fd, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, size - 1);
  if (!live || !kept || length <= 0) return 0;
  path[length] = 0;
  size_t root = strlen(live);
  return strncmp(path, live, root) == 0 && (path[root] == '/' || path[root] == 0);
}

/* Where the durable content of an inode lies, whatever its name is. */
static void inode_path(ino_t inode, char *out, size_t size) {
  snprintf(out, size, "%s.inodes/%llu", kept, (unsigned long long)inode);
}

static void kept_path(const char *path, char *out, size_t size) {
  snprintf(out, size, "%s%s", kept, path + strlen(live));
}

/* Copies the content of a file to its inode's durable copy. */
static void keep_content(const char *path, const struct stat *now) {
  char to[4096];
  char buffer[1 << 16];
  inode_path(now->st_ino, to, sizeof to);
  int from = open(path, O_RDONLY | O_CLOEXEC);
  if (from < 0) {
    if (errno == ENOENT) return; /* Synced after it was removed. */
    die("open", path);
  }
  int copy = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (copy < 0) die("create", to);
  /* RocksDB's files only grow, so what was kept before is still right. */
  struct stat before;
  if (fstat(copy, &before) != 0) die("stat", to);
  off_t at = before.st_size <= now->st_size ? before.st_size : 0;
  ssize_t got;
  while ((got = pread(from, buffer, sizeof buffer, at)) > 0) {
    if (pwrite(copy, buffer, got, at) != got) die("write", to);
    at += got;
  }
  if (ftruncate(copy, at) != 0) die("truncate", to);
  close(from);
  close(copy);
}

/* Gives the durable copy of an inode a name in the kept folder; an empty one if nothing of it was
 * ever synced. */
static void keep_name(const char *path, ino_t inode) {
  char from[4096], to[4096];
  inode_path(inode, from, sizeof from);
  kept_path(path, to, sizeof to);
  int made = open(from, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (made < 0) die("create", from);
  close(made);
  struct stat there, named;
  if (stat(from, &there) != 0) die("stat", from);
  if (stat(to, &named) == 0 && named.st_ino == there.st_ino) return;
  unlink(to);
  if (link(from, to) != 0 && errno != ENOENT) die("link", to);
}

static void keep_folder(const char *path) {
  char to[4096], name[8192];
  kept_path(path, to, sizeof to);
  if (mkdir(to, 0755) != 0 && errno != EEXIST && errno != ENOENT) die("mkdir", to);
  DIR *names = opendir(path);
  if (!names) die("opendir", path);
  struct dirent *entry;
  struct stat now;
  while ((entry = readdir(names))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
    if (lstat(name, &now) != 0) continue;
    if (S_ISREG(now.st_mode)) keep_name(name, now.st_ino);
    if (S_ISDIR(now.st_mode)) {
      kept_path(name, to, sizeof to);
      if (mkdir(to, 0755) != 0 && errno != EEXIST) die("mkdir", to);
    }
  }
  closedir(names);
  /* Names that are gone. */
  kept_path(path, to, sizeof to);
  names = opendir(to);
  if (!names) return;
  while ((entry = readdir(names))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
    if (lstat(name, &now) == 0) continue;
    char gone[8192];
    kept_path(name, gone, sizeof gone);
    if (unlink(gone) != 0) rmdir(gone);
  }
  closedir(names);
}

static void keep(int fd) {
  char path[4096];
  struct stat now;
  if (!path_of(fd, path, sizeof path) || fstat(fd, &now) != 0) return;
  /* A disk that says yes and forgets, to try the test itself. */
  const char *ending = strrchr(path, '.');
  if (getenv("POWER_LOSS_LIES") && ending && !strcmp(ending, ".log")) return;
  pthread_mutex_lock(&lock);
  if (S_ISDIR(now.st_mode)) {
    keep_folder(path);
  } else if (S_ISREG(now.st_mode)) {
    keep_content(path, &now);
    struct stat named;
    /* A new file's name goes to disk with it; a rename or removal does not. */
    if (stat(path, &named) == 0 && named.st_ino == now.st_ino) {
      char to[4096];
      kept_path(path, to, sizeof to);
      if (access(to, F_OK) != 0 && !getenv("POWER_LOSS_STRICT")) keep_name(path, now.st_ino);
    }
  }
  pthread_mutex_unlock(&lock);
}

int fsync(int fd) {
  int result = real_fsync(fd);
  int error = errno;
  if (result == 0) keep(fd);
  errno = error;
  return result;
}

int fdatasync(int fd) {
  int result = real_fdatasync(fd);
  int error = errno;
  if (result == 0) keep(fd);
  errno = error;
  return result;
}
