/* A libnvidia-ml.so.1 whose cards are described by the file that $FAKE_NVML names: lines of a word
   and a number, read anew at each call, so that a test can change them midway. Numbers of errors are
   NVML's own. A card is lost by "lost INDEX", all answers to one question fail by "QUESTION ERROR". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOT_FOUND 6
#define TOO_SMALL 7
#define LOST 15

static int knob(const char *name, int otherwise) {
    char word[64];
    int number, found = otherwise;
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    while (file && fscanf(file, "%63s %d", word, &number) == 2)
        if (!strcmp(word, name)) found = number;
    if (file) fclose(file);
    return found;
}

static int answer(void *card, const char *question) {
    int index = (int)(long)card - 1;
    return index == knob("lost", -1) ? LOST : knob(question, 0);
}

const char *nvmlErrorString(int error) { (void)error; return "fake error"; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; sleep(knob("sleep", 0)); return knob("init", 0); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = knob("count", 1); return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) {
    *card = (void *)(long)(index + 1);
    if ((int)index >= knob("count", 1)) return NOT_FOUND;
    return answer(*card, "handle");
}

int nvmlDeviceGetUUID(void *card, char *text, unsigned size) {
    snprintf(text, size, "GPU-%ld", (long)card - 1);
    return answer(card, "uuid");
}

int nvmlDeviceGetName(void *card, char *text, unsigned size) {
    snprintf(text, size, "Fake %ld", (long)card - 1);
    return answer(card, "name");
}

int nvmlDeviceGetMigMode(void *card, unsigned *now, unsigned *next) {
    *now = *next = knob("mig_on", 0);
    return answer(card, "mig");
}

int nvmlDeviceGetUtilizationRates(void *card, unsigned *rates) {
    rates[0] = 90 + ((long)card - 1) % 10;
    rates[1] = 50;
    return answer(card, "util");
}

int nvmlDeviceGetMemoryInfo(void *card, unsigned long long *memory) { /* total, free, used */
    memory[0] = knob("total_mb", 24000) * 1000000ULL;
    memory[2] = knob("used_mb", 8500) * 1000000ULL;
    memory[1] = memory[0] - memory[2];
    return answer(card, "memory");
}

int nvmlDeviceGetMemoryInfo_v2(void *card, void *info) { /* version; total, reserved, free, used */
    unsigned long long *memory = (unsigned long long *)info + 1;
    memory[0] = knob("total_mb", 24000) * 1000000ULL;
    memory[1] = 500 * 1000000ULL;
    memory[3] = knob("used_mb", 8500) * 1000000ULL - memory[1];
    memory[2] = memory[0] - memory[1] - memory[3];
    return answer(card, "memory_v2");
}

int nvmlDeviceGetPowerUsage(void *card, unsigned *milliwatt) {
    *milliwatt = knob("power_mw", 250500);
    return answer(card, "power");
}

int nvmlDeviceGetEnforcedPowerLimit(void *card, unsigned *milliwatt) {
    *milliwatt = 350000;
    return answer(card, "cap");
}

int nvmlDeviceGetTemperature(void *card, int sensor, unsigned *celsius) {
    (void)sensor;
    *celsius = knob("celsius", 61);
    return answer(card, "temperature");
}

int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *millijoule) {
    *millijoule = knob("energy_mj", 7000000);
    return answer(card, "energy");
}

int nvmlDeviceGetClockInfo(void *card, int clock, unsigned *mhz) {
    *mhz = clock == 2 ? 3201 : 1755; /* memory, else processors */
    return answer(card, "clock");
}

int nvmlDeviceGetMaxClockInfo(void *card, int clock, unsigned *mhz) {
    (void)clock;
    *mhz = 1980;
    return answer(card, "clock_max");
}

int nvmlDeviceGetFanSpeed(void *card, unsigned *percent) {
    *percent = 40;
    return answer(card, "fan");
}

int nvmlDeviceGetCurrentClocksEventReasons(void *card, unsigned long long *bits) {
    *bits = knob("throttle_bits", 1);
    return answer(card, "reasons");
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *card, unsigned long long *bits) {
    *bits = knob("throttle_bits", 1);
    return answer(card, "old_reasons");
}

struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

static int processes(void *card, unsigned *count, struct process *list, const char *question) {
    unsigned room = *count;
    int error = answer(card, question);
    *count = 2;
    if (error) return error;
    if (room < 2) return TOO_SMALL;
    list[0] = (struct process){4711, 1000000000ULL, 0, 0};
    list[1] = (struct process){4712, ~0ULL, 0, 0}; /* not available */
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *card, unsigned *count, struct process *list) {
    return processes(card, count, list, "processes_v3");
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *card, unsigned *count, struct process *list) {
    return processes(card, count, list, "processes_v2");
}
