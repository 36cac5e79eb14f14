// The page of one job: its regions and its curves, fresh whenever the job moves on.

import { Curves } from "./curves.js";
import { follow } from "./live.js";

const job = document.body.dataset.job;
const curves = new Curves(job);

curves.update();
follow(`job:${job}`, () => curves.update());
