/* advice.h - what an operator is told to do about a store that can be used no longer. */
#ifndef QKDN_ADVICE_H
#define QKDN_ADVICE_H

#define START_EMPTY "start with an empty store and make its links anew (qkdn-kmd(8))"

#endif
