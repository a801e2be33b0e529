/*
 * The orders of memory that the rings and the wake-up rest on.  Each stands
 * in the code by its name, so that a test can compile one out
 * (-DOFFLOAD_WEAK=ZONE_SQ_TAIL_STORE) and show that it is missed.  Names for
 * the compiler only; nothing of it is there at run time.
 */

#ifndef OFFLOAD_ZONE_ORDER_H
#define OFFLOAD_ZONE_ORDER_H

#include <stdatomic.h>


enum zone_order {
    ZONE_ORDERS_ALL = 0,
    ZONE_SQ_TAIL_STORE,                         /* a record, then its tail */
    ZONE_SQ_TAIL_LOAD,
    ZONE_SQ_HEAD_STORE,                         /* read, then given back */
    ZONE_SQ_HEAD_LOAD,
    ZONE_CQ_TAIL_STORE,                         /* the same of answers */
    ZONE_CQ_TAIL_LOAD,
    ZONE_CQ_HEAD_STORE,
    ZONE_CQ_HEAD_LOAD,
    ZONE_SLEEP_FENCE,                           /* armed, then a last look */
    ZONE_WAKE_FENCE                             /* published, then the bell */
};

#ifndef OFFLOAD_WEAK
#define OFFLOAD_WEAK          ZONE_ORDERS_ALL
#endif

#define zone_order(name, order)                                               \
    (OFFLOAD_WEAK == (name) ? memory_order_relaxed : (order))

#endif /* OFFLOAD_ZONE_ORDER_H */
