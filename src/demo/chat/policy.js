// The page's policy forbids making code of strings, which zod would try. It has to be told before the AI SDK is loaded.

import { config } from 'zod/v4';

config({ jitless: true });
