/*
 * How fast the system starts a program: posix_spawn() and waitpid(), so many
 * at a time, as long as it is told.
 *
 *     spawn <at a time> <seconds> <program> [argument ...]
 *
 * Prints programs a second.
 */

#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>


extern char **environ;


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}


int
main(int argc, char **argv)
{
    int            n, most, running, status;
    pid_t          pid;
    double         start, end;
    unsigned long  done;

    if (argc < 4) {
        (void) fprintf(stderr, "usage: spawn n seconds program ...\n");
        return 2;
    }

    most = atoi(argv[1]);
    running = 0;
    done = 0;
    start = now();
    end = start + atof(argv[2]);

    for (n = 0; n == 0 || running; n++) {

        while (running < most && now() < end) {
            if (posix_spawn(&pid, argv[3], NULL, NULL, argv + 3, environ)
                != 0)
            {
                perror(argv[3]);
                return 1;
            }

            running++;
        }

        if (running && waitpid(-1, &status, 0) > 0) {
            running--;
            done++;

            if (status != 0) {
                (void) fprintf(stderr, "%s failed\n", argv[3]);
                return 1;
            }
        }
    }

    (void) printf("%.0f\n", (double) done / (now() - start));

    return 0;
}
